"""Compare the original with changed versions of it, in one run and in the memory of one model.

A variant is a twin of the model: it has a structure of its own and shares all tensors that are not replaced. So
nothing is put in or taken out while a clock runs, and the original stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from layersmith.anatomy.edit import Replacement
from layersmith.anatomy.twin import twin
from layersmith.cost import Cost
from layersmith.measuring.cost import model_cost
from layersmith.measuring.divergence import Divergence, Expected
from layersmith.measuring.inputs import placement
from layersmith.measuring.latency import Step, latency, model_step, ratio
from layersmith.measuring.shape import Shape
from layersmith.refitting.calibrate.batches import Batch

ORIGINAL = "original"


@dataclass(frozen=True)
class Clocked:
    """One variant timed in turns with the original; `rounds` of turns."""

    latency_ms: float
    latency_ratio: float
    rounds: int = 0

    def to_json(self) -> dict[str, float]:
        return dict(vars(self))


@dataclass(frozen=True)
class Measured:
    """One variant beside the original: what it keeps, on what share of the windows that was measured, and its costs."""

    divergence: float
    agreement: float | None
    measured_on: float
    latency_ratio: float
    cost: Cost

    def to_json(self) -> dict[str, Any]:
        kept = {"divergence": self.divergence, "agreement": self.agreement, "measured_on": self.measured_on}
        return {**kept, "latency_ratio": self.latency_ratio, **self.cost.to_json()}


@torch.no_grad()
def joint_divergence(
    model: nn.Module, replacement: Replacement, batches: list[Batch], expected: list[Expected] | None = None
) -> Divergence:
    """Divergence of the edited model from the original on batches.

    expected  the original's `outputs` on the batches when they are at hand; computed batch by batch otherwise
    """
    total, edited = Divergence(), twin(model, replacement)
    for index, batch in enumerate(batches):
        target = Expected(model(**batch), batch.get("attention_mask")) if expected is None else expected[index]
        total.add_to(target, edited(**batch))
    return total


@torch.no_grad()
def outputs(model: nn.Module, batches: list[Batch]) -> list[Expected]:
    """What the model answers on each batch, ready to be compared with."""
    return [Expected(model(**batch), batch.get("attention_mask")) for batch in batches]


def variant_steps(model: nn.Module, variants: dict[str, Replacement], shape: Shape) -> dict[str, Step]:
    """What is timed: a step of the original and of each variant. Each makes its inputs, and its cache, itself.

    The original's is a twin's too (`anatomy.twin` says why).
    """
    steps = {ORIGINAL: model_step(twin(model), shape)}
    return steps | {name: model_step(twin(model, replacement), shape) for name, replacement in variants.items()}


def clock_variants(model: nn.Module, variants: dict[str, Replacement], shape: Shape, rounds: int) -> dict[str, Clocked]:
    """The latency of the model with each of the replacements; all of them and the original take turns."""
    device, _ = placement(model)
    # After a call or two the caches are warm; a look of few rounds has to be quick.
    timings = latency(variant_steps(model, variants, shape), rounds=rounds, warmup=1 + (rounds > 3), device=device)
    return {name: Clocked(timings[name].median * 1e3, ratio(timings, name, ORIGINAL), rounds) for name in variants}


def clock_variant(model: nn.Module, replacement: Replacement, shape: Shape, rounds: int) -> Clocked:
    """The latency of the model with the replacement."""
    return clock_variants(model, {"variant": replacement}, shape, rounds)["variant"]


def measure_variant(
    model: nn.Module,
    replacement: Replacement,
    shape: Shape,
    clocked: Clocked,
    batches: list[Batch],
    expected: list[Expected] | None = None,
) -> Measured:
    """Quality on `batches` and cost at `shape` of a variant that was timed. `expected`: as for `joint_divergence`."""
    quality = joint_divergence(model, replacement, batches, expected)
    cost = replace(model_cost(twin(model, replacement), shape), latency_ms=clocked.latency_ms)
    return Measured(quality.value, quality.agreement, 1.0, clocked.latency_ratio, cost)
