"""Compare the original with edited versions of it, in one run and without copying the model.

A variant is the same model with a replacement put in while it runs. Timing interleaves the variants with the
original; putting a replacement in happens outside the timed part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from layersmith.anatomy.edit import Replacement, apply, restore
from layersmith.measuring.cost import model_cost
from layersmith.measuring.divergence import Divergence
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import Step, Timing, latency, model_step, ratio
from layersmith.measuring.shape import Shape
from layersmith.refitting.calibrate.batches import Batch

ORIGINAL = "original"


@dataclass(frozen=True)
class Measured:
    """One variant beside the original, all in the same run."""

    kl: float
    agreement: float | None
    latency_ms: float
    latency_ratio: float
    params: int
    bytes: int
    flops: int
    kv_bytes: int

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@torch.no_grad()
def joint_kl(
    model: nn.Module, replacement: Replacement, batches: list[Batch], expected: list[Any] | None = None
) -> Divergence:
    """Divergence of the edited model from the original on batches.

    expected  the original's `outputs` on the batches when they are at hand; computed batch by batch otherwise
    """
    total = Divergence()
    for index, batch in enumerate(batches):
        target = model(**batch) if expected is None else expected[index]
        before = apply(model, replacement)
        try:
            total.add(target, model(**batch), batch.get("attention_mask"))
        finally:
            restore(model, before)
    return total


@torch.no_grad()
def outputs(model: nn.Module, batches: list[Batch]) -> list[Any]:
    """What the model answers on each batch."""
    return [model(**batch) for batch in batches]


def time_variants(
    model: nn.Module, variants: dict[str, Replacement], shape: Shape, rounds: int = 15
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Timings of the original and all variants at a shape, and each variant's ratio to the original."""
    steps = {ORIGINAL: model_step(model, shape)}
    for name, replacement in variants.items():
        steps[name] = _variant_step(model, replacement, shape)
    device, _ = placement(model)
    timings = latency(steps, rounds=rounds, warmup=2, device=device)
    return timings, {name: ratio(timings, name, ORIGINAL) for name in variants}


def measure_variants(
    model: nn.Module,
    variants: dict[str, Replacement],
    shape: Shape,
    batches: list[Batch],
    rounds: int = 15,
    expected: list[Any] | None = None,
) -> dict[str, Measured]:
    """Quality on `batches` and cost at `shape` of every variant. `expected`: as for `joint_kl`."""
    timings, ratios = time_variants(model, variants, shape, rounds)
    measured = {}
    for name, replacement in variants.items():
        quality = joint_kl(model, replacement, batches, expected)
        before = apply(model, replacement)
        try:
            cost = model_cost(model, shape)
        finally:
            restore(model, before)
        measured[name] = Measured(
            kl=quality.value,
            agreement=quality.agreement,
            latency_ms=timings[name].median * 1e3,
            latency_ratio=ratios[name],
            params=cost["params"],
            bytes=cost["bytes"],
            flops=cost["flops"],
            kv_bytes=cost["kv_bytes"],
        )
    return measured


def _variant_step(model: nn.Module, replacement: Replacement, shape: Shape) -> Step:
    """A step of the edited model. Its inputs (and a decode step's cache) are made by the edited model itself."""
    before = apply(model, replacement)
    try:
        step = model_step(model, shape)
    finally:
        restore(model, before)

    def run() -> object:
        standing = apply(model, replacement)
        try:
            return step.run()
        finally:
            restore(model, standing)

    return Step(run, step.before)
