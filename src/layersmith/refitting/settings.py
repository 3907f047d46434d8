"""What the options of a run come to for one model.

`settings_for` completes a `RefitConfig` by defaults that follow the model's size; the result decides the outcome of a
run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import nn

from layersmith.measuring.inputs import placement
from layersmith.measuring.shape import Shape, parse_shape
from layersmith.refitting.calibrate.batches import Sizes
from layersmith.refitting.heal.adapters import build_adapter
from layersmith.refitting.methods import chosen, forgets
from layersmith.refitting.options import RefitConfig

#: The longest texts that quality is measured on, in tokens.
LONGEST = 1024


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a run; its JSON is part of the run's identity."""

    budget: dict[str, float]
    at: str
    device: str
    dtype: str
    data: str
    text_column: str | None
    methods: list[str]
    sites: list[str]
    seed: int
    sizes: dict[str, int]
    distill_steps: int
    heal_tokens: int
    heal_lr: float
    heal_adapter: str | None
    heal_baseline: bool
    refine_evaluations: int


def settings_for(model: nn.Module, config: RefitConfig) -> Settings:
    """The full settings: defaults follow the model's size, so that small and large models both finish in time."""
    params = sum(p.numel() for p in model.parameters())
    small = params < 30e6
    effort = config.effort

    def scaled(count: float, least: int) -> int:
        return max(least, round(count * effort))

    distill_steps = config.distill_steps
    if distill_steps is None:
        distill_steps = round(20 * effort) if small else 0
    methods = chosen(config.methods, list(config.budget))
    length = _text_length(methods, parse_shape(config.at))
    shorter = Sizes.length / length  # the same tokens in fewer windows, if these are longer

    heal_tokens = config.heal_tokens
    if heal_tokens is None:
        # A forward of teacher and student and a backward cost about 8 FLOPs per parameter and token.
        heal_tokens = int(effort * min(300_000, 8e13 / (8 * params)))
    rate = 1.0 if config.heal_adapter is None else build_adapter(config.heal_adapter).rate
    return Settings(
        budget=config.budget,
        at=config.at,
        device=placement(model)[0].type,
        dtype=config.dtype,
        data=config.data,
        text_column=config.text_column,
        methods=methods,
        sites=["*"] if config.sites is None else config.sites,
        seed=config.seed,
        sizes=asdict(
            Sizes(
                length=length,
                per_batch=max(1, round(Sizes.per_batch * shorter)),
                calibration=scaled(Sizes.calibration * shorter, 4),
                search=scaled((Sizes.search if small else Sizes.search // 2) * shorter, 2),
                report=scaled((Sizes.report if small else Sizes.report // 2) * shorter, 2),
                heal=max(1, heal_tokens // length) if heal_tokens else 0,  # a few tokens are not none
            )
        ),
        distill_steps=distill_steps,
        heal_tokens=heal_tokens,
        heal_baseline=config.heal_baseline,
        heal_lr=config.heal_lr or rate * (3e-4 if small else 1e-4),
        heal_adapter=config.heal_adapter,
        refine_evaluations=scaled(60 if small else 24, 2),
    )


def _text_length(methods: list[str], shape: Shape) -> int:
    """Tokens in a window of text: as many as the shape has, where a method loses what shorter ones would not show."""
    return min(max(Sizes.length, shape.tokens), LONGEST) if forgets(methods) else Sizes.length
