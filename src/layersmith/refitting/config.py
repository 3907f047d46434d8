"""The settings of a run: what the user asked for, completed by defaults that follow the model's size."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from layersmith.errors import UserError
from layersmith.measuring.inputs import placement
from layersmith.refitting.calibrate.batches import Sizes
from layersmith.refitting.methods import chosen
from layersmith.refitting.score.costs import FIELDS


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a run; its JSON is the run's identity."""

    budget: dict[str, float]
    at: str
    device: str
    data: str
    methods: list[str]
    sites: list[str]
    seed: int
    sizes: dict[str, int]
    distill_steps: int
    heal_tokens: int
    heal_lr: float
    heal_baseline: bool
    refine_evaluations: int


def settings_for(
    model: nn.Module,
    *,
    budget: dict[str, float],
    at: str,
    data: str,
    methods: list[str] | None,
    sites: list[str] | None,
    seed: int,
    distill_steps: int | None,
    heal_tokens: int | None,
    heal_lr: float | None,
    heal_baseline: bool,
    effort: float,
) -> Settings:
    """The full settings: defaults follow the model's size, so that small and large models both finish in time."""
    params = sum(p.numel() for p in model.parameters())
    small = params < 30e6
    if not 0.01 <= effort <= 100:
        raise UserError(f"The effort must lie between 0.01 and 100, not {effort:g}.")
    if heal_lr is not None and not 0 < heal_lr < 1:
        raise UserError(f"The healing rate must lie above 0 and below 1, not {heal_lr:g}. To heal nothing: 0 tokens.")

    def scaled(count: int, least: int) -> int:
        return max(least, round(count * effort))

    if distill_steps is None:
        distill_steps = round(20 * effort) if small else 0
    if heal_tokens is None:
        # A forward of teacher and student and a backward cost about 8 FLOPs per parameter and token.
        heal_tokens = int(effort * min(300_000, 8e13 / (8 * params)))
    return Settings(
        budget=budget,
        at=at,
        device=placement(model)[0].type,
        data=data,
        methods=chosen(methods, list(budget)),
        sites=sites or ["*"],
        seed=seed,
        sizes=asdict(
            Sizes(
                calibration=scaled(Sizes.calibration, 4),
                search=scaled(Sizes.search if small else Sizes.search // 2, 2),
                report=scaled(Sizes.report if small else Sizes.report // 2, 2),
                heal=heal_tokens // Sizes.length,
            )
        ),
        distill_steps=distill_steps,
        heal_tokens=heal_tokens,
        heal_baseline=heal_baseline,
        heal_lr=heal_lr or (3e-4 if small else 1e-4),
        refine_evaluations=scaled(60 if small else 24, 2),
    )


def check_budget(budget: dict[str, float]) -> None:
    """Raise a UserError unless the budget is a non-empty dict of known names and shares in (0, 1]."""
    if not budget:
        raise UserError(f"A budget is needed, e.g. latency=0.75. Names: {', '.join(FIELDS)}.")
    for name, share in budget.items():
        if name not in FIELDS:
            raise UserError(f"Unknown budget {name!r}. Names: {', '.join(FIELDS)}.")
        if not 0.0 < share <= 1.0:
            raise UserError(f"The budget {name}={share:g} must be a share of the original's, above 0 and at most 1.")
