"""Original and result under torch.compile, side by side: what the compiler gives to both is no gain of the refit."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from layersmith.errors import UserError
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import latency, model_step, ratio
from layersmith.measuring.shape import Shape

#: As many graphs as a model may have layers of different widths: past torch's own limit (8) it silently goes on without
#: compiling.
GRAPHS = 64


def measure_compiled(original: Any, refitted: Any, shape: Shape, rounds: int = 30) -> dict[str, Any]:
    """Latency of both, compiled, in interleaved rounds, and the same two as they are in the same rounds.

    Returns for "original" and "refitted": latency_ms, latency_ms_spread (p25, p75), compile_seconds (of the calls
    before the first round), latency_ratio (to the compiled original) and eager_ratio (to the same model as it is);
    {"refused": why} when torch.compile fails on one of them.
    """
    models = {"original": original, "refitted": refitted}
    before, torch._dynamo.config.recompile_limit = torch._dynamo.config.recompile_limit, GRAPHS
    seconds: dict[str, float] = {}
    try:
        steps = {f"{name}, eager": model_step(model, shape) for name, model in models.items()}
        for name, model in models.items():
            start = time.perf_counter()
            try:
                steps[name] = _compiled_step(model, shape)
            except UserError:
                raise
            except Exception as error:  # whatever the compiler raises about somebody's model
                return {"refused": f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"}
            seconds[name] = time.perf_counter() - start
        timings = latency(steps, rounds=rounds, warmup=3, device=placement(original)[0])
    finally:
        torch._dynamo.config.recompile_limit = before
        torch.compiler.reset()
    return {
        name: {
            "latency_ms": timings[name].median * 1e3,
            "latency_ms_spread": [timings[name].p25 * 1e3, timings[name].p75 * 1e3],
            "latency_ratio": ratio(timings, name, "original"),
            "eager_ratio": ratio(timings, name, f"{name}, eager"),
            "compile_seconds": seconds[name],
        }
        for name in models
    }


def _compiled_step(model: Any, shape: Shape) -> Any:
    """A step of the model with a compiled forward, called until nothing is compiled any more."""
    again = copy.copy(model)  # the same modules; only the forward of this shell is compiled
    again.forward = torch.compile(model.forward)
    step = model_step(again, shape)
    with torch.no_grad():
        for _ in range(3):
            step()
    return step
