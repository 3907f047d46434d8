"""What a run is asked to do, and what that comes to for one model.

`RefitConfig` holds the options as they are given, one field each, with the words that `layersmith refit --help` shows.
`settings_for` completes them by defaults that follow the model's size; the result decides the outcome of a run.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import nn

from layersmith.errors import UserError
from layersmith.measuring.inputs import placement
from layersmith.refitting.calibrate.batches import Sizes
from layersmith.refitting.methods import chosen
from layersmith.refitting.score.costs import FIELDS


@dataclass(frozen=True)
class RefitConfig:
    """The options of `refit`. None takes a default that follows the model's size."""

    budget: dict[str, float] = field(
        metadata={"help": "shares of the original: latency=0.75,bytes=0.5 (or params, flops, kv)"}
    )
    out: Path = field(metadata={"help": "folder for model/, result.json, report.html and the workspace"})
    methods: list[str] | None = field(default=None, metadata={"help": "only these, separated by commas; `layersmith methods` lists all"})
    sites: list[str] | None = field(
        default=None, metadata={"help": "only these sites, separated by commas: layers.3.ffn or layers.*.attn"}
    )
    data: str = field(default="stdlib", metadata={"help": "stdlib, a text file or folder, or hub:owner/name"})
    at: str = field(
        default="prefill=1x512", metadata={"help": "the shape latency is measured at: prefill=1x512 or decode=1x128"}
    )
    seed: int = field(default=0, metadata={"help": "of everything random"})
    distill_steps: int | None = field(
        default=None, metadata={"help": "steps of local distillation of each candidate; 0 does not distil"}
    )
    heal_tokens: int | None = field(default=None, metadata={"help": "tokens to heal on; 0 does not heal"})
    heal_lr: float | None = field(default=None, metadata={"help": "peak learning rate of healing"})
    heal_baseline: bool = field(
        default=False, metadata={"help": "heal the best uniform baseline too, for a fair comparison"}
    )
    effort: float = field(default=1.0, metadata={"help": "scales text and steps: 0.1 a quick look, 4 thorough"})
    workers: int = field(default=1, metadata={"help": "processes that build candidates at the same time"})
    device: str | None = field(
        default=None, metadata={"help": "where the model runs and is measured: cpu, cuda, cuda:1, mps"}
    )
    reuse: Path | None = field(
        default=None, metadata={"help": "folder of an earlier run that differs in budget and healing alone"}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "import the Python code that the model brings"})


@dataclass(frozen=True)
class Settings:
    """Everything that decides the outcome of a run; its JSON is part of the run's identity."""

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


def settings_for(model: nn.Module, config: RefitConfig) -> Settings:
    """The full settings: defaults follow the model's size, so that small and large models both finish in time."""
    params = sum(p.numel() for p in model.parameters())
    small = params < 30e6
    effort = config.effort

    def scaled(count: int, least: int) -> int:
        return max(least, round(count * effort))

    distill_steps = config.distill_steps
    if distill_steps is None:
        distill_steps = round(20 * effort) if small else 0
    heal_tokens = config.heal_tokens
    if heal_tokens is None:
        # A forward of teacher and student and a backward cost about 8 FLOPs per parameter and token.
        heal_tokens = int(effort * min(300_000, 8e13 / (8 * params)))
    return Settings(
        budget=config.budget,
        at=config.at,
        device=placement(model)[0].type,
        data=config.data,
        methods=chosen(config.methods, list(config.budget)),
        sites=["*"] if config.sites is None else config.sites,
        seed=config.seed,
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
        heal_baseline=config.heal_baseline,
        heal_lr=config.heal_lr or (3e-4 if small else 1e-4),
        refine_evaluations=scaled(60 if small else 24, 2),
    )


def check(config: RefitConfig) -> None:
    """Raise a UserError for values that no run could mean; nothing is loaded for it."""
    check_budget(config.budget)
    if not 0.01 <= config.effort <= 100:
        raise UserError(f"The effort must lie between 0.01 and 100, not {config.effort:g}.")
    if config.heal_lr is not None and not 0 < config.heal_lr < 1:
        raise UserError(
            f"The healing rate must lie above 0 and below 1, not {config.heal_lr:g}. To heal nothing: 0 tokens."
        )
    for name, value in (("distill_steps", config.distill_steps), ("heal_tokens", config.heal_tokens)):
        if value is not None and value < 0:
            raise UserError(f"{name} must be 0 or more, not {value}; 0 leaves that step out.")
    if config.workers < 1:
        raise UserError(f"The number of workers must be at least 1, not {config.workers}.")
    for name, given in (("methods", config.methods), ("sites", config.sites)):
        if given is not None and (isinstance(given, str) or not given or not all(given)):
            raise UserError(f"{name} must be a list of at least one name, not {given!r}; leave it out to take all.")
    chosen(config.methods, list(config.budget))


def check_budget(budget: dict[str, float]) -> None:
    """Raise a UserError unless the budget is a non-empty dict of known names and shares in (0, 1]."""
    if not budget:
        raise UserError(f"A budget is needed, e.g. latency=0.75. Names: {', '.join(FIELDS)}.")
    for name, share in budget.items():
        if name not in FIELDS:
            raise UserError(f"Unknown budget {name!r}. Names: {', '.join(FIELDS)}.")
        if not 0.0 < share <= 1.0:
            raise UserError(f"The budget {name}={share:g} must be a share of the original's, above 0 and at most 1.")
