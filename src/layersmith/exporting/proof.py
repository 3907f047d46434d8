"""That a written file computes what the model computes, and how long each of them takes, on one clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from layersmith.data.examples import Reader
from layersmith.errors import UserError
from layersmith.exporting.subject import OTHER_SIZES, model_inputs
from layersmith.measuring.divergence import Divergence, main_output, real_positions, real_rows
from layersmith.measuring.inputs import reads_text, without_cache
from layersmith.measuring.latency import Step, latency, ratio
from layersmith.measuring.shape import Shape

#: Largest difference allowed, relative to the largest output: other kernels sum in another order; and where both round
#: activations to codes, a value half way between two falls to either side, and the layers behind it follow.
TOLERANCE, ROUNDED_TOLERANCE = 1e-3, 5e-2
#: Text that the divergence is measured on: windows, and tokens in each.
WINDOWS, LENGTH = 4, 256
#: Seconds before each timed call, for threads that spin after the last one to go to rest.
REST = 0.02

Run = Callable[[dict[str, Tensor]], Any]


class NotTheModel(UserError):
    """The written file computes something else than the model."""


@torch.no_grad()
def check_equal(reference: Any, runner: Run, rounds: bool) -> dict[str, Any]:
    """Outputs of the file beside the model's at other sizes than it was traced at, padding among them.

    reference  the model whose outputs are the right ones
    rounds     whether the graph holds parts that round
    Returns max_abs_diff, largest_output, bound and the shapes. Raises NotTheModel where the bound is passed.
    """
    bound = ROUNDED_TOLERANCE if rounds else TOLERANCE
    difference = largest = 0.0
    seen = []
    for batch, tokens in OTHER_SIZES:
        inputs = model_inputs(reference, batch, tokens, seed=batch)
        mask = real_positions(inputs)
        expected = main_output(reference(**inputs, **without_cache(reference)))
        seen.append([batch, *next(iter(inputs.values())).shape[1:]])
        try:
            found = main_output(runner(inputs))
        except Exception as error:  # a runtime that refuses another size than the traced one
            said = " ".join(str(error).split())[:300]
            raise NotTheModel(
                f"the graph does not run at another size than the traced one, {seen[-1]}: {said}"
            ) from error
        if found.shape != expected.shape:
            shapes = f"{tuple(found.shape)} where {tuple(expected.shape)} was expected"
            raise NotTheModel(f"at {seen[-1]} the outputs have the shape {shapes}.")
        found, expected = real_rows(found, mask).double(), real_rows(expected, mask).double()
        largest = max(largest, float(expected.abs().max()))
        difference = max(difference, float((found - expected).abs().max()))
        if not difference <= bound * largest:  # NaN is not
            raise NotTheModel(
                f"at {seen[-1]} the outputs of the file differ from the model's by {difference:.3g}, where "
                f"{bound * largest:.3g} is the bound. Nothing was kept."
            )
    return {"max_abs_diff": difference, "largest_output": largest, "bound": bound * largest, "shapes": seen}


@torch.no_grad()
def divergences(model: Any, tokenizer: Any, runners: Mapping[str, Run], data: str, seed: int) -> dict[str, Any]:
    """How far each way to run the file is from the model, on held-out text (random tokens for models without any)."""
    if tokenizer is not None and reads_text(model):
        reader = Reader(model, tokenizer, data, length=LENGTH, seed=seed)
        batches = [*reader.batched(reader.read("heldout", WINDOWS * LENGTH), 1)]
    else:
        data = "random"
        batches = [model_inputs(model, 1, LENGTH, seed + index) for index in range(WINDOWS)]
    totals = {label: Divergence() for label in runners}
    for batch in batches:
        if "input_ids" in batch and "attention_mask" not in batch:
            batch = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
        expected, mask = model(**batch, **without_cache(model)), real_positions(batch)
        for label, run in runners.items():
            totals[label].add(expected, {**run(batch)}, mask)
    first = next(iter(totals.values()))
    return {
        "data": data,
        "tokens": first.tokens,
        "kind": first.kind,
        "of": {label: total.value for label, total in totals.items()},
    }


def timed(model: Any, runners: Mapping[str, Run], shape: Shape, rounds: int, seed: int) -> dict[str, Any]:
    """Milliseconds of the model and of each way to run the file, interleaved, and their ratios to the model."""
    inputs = model_inputs(model, shape.batch, shape.tokens, seed)
    if "attention_mask" in inputs:
        inputs["attention_mask"].fill_(1)
    settings = without_cache(model)
    steps = {"model": Step(lambda: model(**inputs, **settings), _rest)}
    steps |= {label: Step(partial(run, inputs), _rest) for label, run in runners.items()}
    timings = latency(steps, rounds=rounds, seed=seed)
    return {
        name: {
            "latency_ms": timing.median * 1e3,
            "latency_ms_spread": [timing.p25 * 1e3, timing.p75 * 1e3],
            "latency_ratio": ratio(timings, name, "model"),
        }
        for name, timing in timings.items()
    }


def _rest() -> None:
    time.sleep(REST)
