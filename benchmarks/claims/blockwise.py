"""Peak memory and time of a training step: layers computed a stretch of tokens at a time, beside the same layers whole.

Paper: Liu & Abbeel 2023, "Blockwise Parallel Transformer for Long Context Large Models": sequences 2 to 4 times longer
than with memory-efficient attention alone, in the same memory. What is compared has the same weights and, as tests
show, the same gradients: `series`, `series` with every layer computed again in the backward pass, and `blockwise`. The
peak is that of all tensors alive at once, as torch's profiler sees them being allocated and freed, less what was there
before.

    python benchmarks/claims/blockwise.py
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith import catalogue

D, HEADS, LAYERS, CHUNK = 128, 4, 4, 128
NORM = {"name": "rms_norm"}
ROUNDS = 5
#: Length whose plain step sets the memory that longer texts have to do with.
CAP_AT = 1024

Step = Callable[[Tensor], Tensor]


def layers_of(name: str, d_hidden: int) -> nn.ModuleList:
    torch.manual_seed(0)
    parts = {"norm": NORM, "mixer": {"name": "softmax_attention", "n_heads": HEADS, "rope_theta": 10000.0},
             "ffn_norm": NORM, "ffn": {"name": "mlp", "d_hidden": d_hidden}}  # fmt: skip
    chunk = {"chunk": CHUNK} if name == "blockwise" else {}
    return nn.ModuleList(catalogue.build({"name": name, "d_model": D, **parts, **chunk}) for _ in range(LAYERS)).train()


def runs(d_hidden: int) -> dict[str, Step]:
    """Each way to run the layers, forward."""
    plain, stretches = layers_of("series", d_hidden), layers_of("blockwise", d_hidden)
    stretches.load_state_dict(plain.state_dict())

    def whole(x: Tensor) -> Tensor:
        for layer in plain:
            x, _ = layer(x)
        return x

    def again(x: Tensor) -> Tensor:
        for layer in plain:
            x, _ = checkpoint(layer, x, use_reentrant=False)
        return x

    def blockwise(x: Tensor) -> Tensor:
        for layer in stretches:
            x, _ = layer(x)
        return x

    return {"series": whole, "series, computed again": again, "blockwise": blockwise}


def step(run: Step, tokens: int) -> None:
    run(torch.ones(1, tokens, D).requires_grad_()).sum().backward()


def peak(run: Step, tokens: int) -> float:
    """MiB alive at most during a step, above what was alive before it; gradients of weights are there already."""
    step(run, 8)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step(run, tokens)
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    alive = most = 0
    for _, change in changes:
        alive += change
        most = max(most, alive)
    return most / 2**20


def seconds(ways: dict[str, Step], tokens: int) -> dict[str, float]:
    """Median of a step, all ways in turn in every round."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, run in ways.items():
            start = time.perf_counter()
            step(run, tokens)
            found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times[1:]) for name, times in found.items()}


def main() -> None:
    rows = []
    for d_hidden in (512, 2048):
        ways = runs(d_hidden)
        for tokens in (1024, 2048, 4096):
            took = seconds(ways, tokens) if tokens <= 2048 else {}
            for name, run in ways.items():
                row = {"d_hidden": d_hidden, "tokens": tokens, "way": name, "peak_mib": round(peak(run, tokens), 1)}
                rows.append(row | ({"seconds": round(took[name], 4)} if took else {}))
                print(rows[-1], flush=True)
    at = {(row["way"], row["d_hidden"], row["tokens"]): row for row in rows}
    ways = runs(2048)
    cap = at["series", 2048, CAP_AT]["peak_mib"]
    longest = {}
    for name, run in ways.items():
        tokens = CAP_AT
        while tokens < 16 * CAP_AT and peak(run, tokens + CAP_AT) <= cap:
            tokens += CAP_AT
        longest[name] = tokens
        rows.append({"way": name, "cap_mib": cap, "longest_tokens": tokens})
        print(rows[-1], flush=True)
    ratio = {d: at["blockwise", d, 2048]["seconds"] / at["series", d, 2048]["seconds"] for d in (512, 2048)}
    grown = at["blockwise", 2048, 4096]["peak_mib"] / at["blockwise", 512, 4096]["peak_mib"]
    longer = longest["blockwise"] / longest["series"]
    save_claim(
        "blockwise",
        "blockwise",
        "blockwise-parallel-transformer-long-context",
        "Texts 2 to 4 times longer than with memory-efficient attention alone, in the same memory",
        "held" if longer >= 2 else "did not hold",
        f"{LAYERS} layers, D {D}, float32, one text. In the memory of a plain step at {CAP_AT} tokens and an inner "
        f"width of 2048 ({cap:.0f} MiB) blockwise trains on {longest['blockwise']} tokens, plain layers computed again "
        f"in the backward pass on {longest['series, computed again']}. From an inner width of 512 to 2048 its peak at "
        f"4096 tokens grows {grown:.2f} times, the plain one's "
        f"{at['series', 2048, 4096]['peak_mib'] / at['series', 512, 4096]['peak_mib']:.2f} times. A step at 2048 "
        f"tokens takes {ratio[512]:.2f} and {ratio[2048]:.2f} of the plain one's time at the two widths (layers "
        "computed again: "
        + " and ".join(
            f"{at['series, computed again', d, 2048]['seconds'] / at['series', d, 2048]['seconds']:.2f}"
            for d in (512, 2048)
        )
        + ").",
        rows,
    )


if __name__ == "__main__":
    main()
