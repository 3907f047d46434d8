"""What a user may ask of `refit`: one field an option, with the words that `layersmith refit --help` shows.

Nothing heavy is imported here, so the command line is made from this class and refuses a slip at once. What the
options come to for one model is `settings.settings_for`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path

from layersmith.cost import FIELDS
from layersmith.errors import UserError, suggest
from layersmith.kinds import check_kinds, shown
from layersmith.measuring.shape import parse_shape
from layersmith.names import check_data, check_device, check_names, check_out, check_reusable, check_seed, check_sites
from layersmith.refitting.heal.adapters import check_adapter
from layersmith.refitting.methods import check_methods

#: What may be bounded, as a share of the original's.
BUDGETS = tuple(FIELDS)

#: Options whose kind is checked with what they hold, in words of their own.
OWN_WORDS = ("budget", "methods", "sites")

#: What a result may be stored in; "auto" is what each tensor's source has.
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class RefitConfig:
    """The options of `refit`. None takes a default that follows the model's size."""

    budget: dict[str, float] = field(
        metadata={"help": "shares of the original: latency=0.75,bytes=0.5 (or params, flops, kv)"}
    )
    out: Path = field(metadata={"help": "folder for model/, result.json, report.html and the workspace"})
    methods: list[str] | None = field(
        default=None,
        metadata={"help": "only these and their chains, separated by commas; `layersmith methods` lists all"},
    )
    sites: list[str] | None = field(
        default=None, metadata={"help": "only these sites, separated by commas: layers.3.ffn or layers.*.attn"}
    )
    data: str = field(
        default="stdlib", metadata={"help": "stdlib, a file or folder of text, pictures or sound, or hub:owner/name"}
    )
    text_column: str | None = field(
        default=None, metadata={"help": "of a table (.jsonl, .json, .csv, .tsv); source,target for pairs of texts"}
    )
    at: str = field(
        default="prefill=1x512", metadata={"help": "the shape latency is measured at: prefill=1x512 or decode=1x128"}
    )
    seed: int = field(default=0, metadata={"help": "of everything random"})
    distill_steps: int | None = field(
        default=None, metadata={"help": "steps of local distillation of each candidate; 0 does not distil"}
    )
    heal_tokens: int | None = field(default=None, metadata={"help": "tokens to heal on; 0 does not heal"})
    heal_lr: float | None = field(default=None, metadata={"help": "peak learning rate of healing"})
    heal_adapter: str | None = field(
        default=None,
        metadata={"help": "train this, not all weights: lora:8, adapter_bias, lora_experts, domain_adapters"},
    )
    heal_baseline: bool = field(
        default=False, metadata={"help": "heal the best uniform baseline too, for a fair comparison"}
    )
    effort: float = field(default=1.0, metadata={"help": "scales text and steps: 0.1 a quick look, 4 thorough"})
    compile: bool = field(
        default=False, metadata={"help": "at the end also measure original and result under torch.compile"}
    )
    workers: int = field(default=1, metadata={"help": "processes that build candidates at the same time"})
    device: str | None = field(
        default=None, metadata={"help": "where the model runs and is measured: cpu (if not given), cuda, cuda:1, mps"}
    )
    dtype: str = field(
        default="auto", metadata={"help": "what the result is stored in: auto, float32, bfloat16, float16"}
    )
    reuse: Path | None = field(
        default=None, metadata={"help": "folder of an earlier run that differs in budget and healing alone"}
    )
    trust_remote_code: bool = field(default=False, metadata={"help": "import the Python code that the model brings"})


def check(config: RefitConfig) -> None:
    """Raise a UserError for options that no run could mean; nothing is loaded, and nothing written, for it."""
    check_kinds(RefitConfig, vars(config), but=OWN_WORDS)
    check_budget(config.budget)
    _check_numbers(config)
    check_names("methods", config.methods)
    check_methods(config.methods or [])
    check_sites(config.sites)
    parse_shape(config.at)
    check_data(config.data)
    if config.dtype not in DTYPES:
        raise UserError(f"There is no dtype {config.dtype!r} to store a model in. Choose among {', '.join(DTYPES)}.")
    if config.device is not None:
        check_device(config.device)
    if config.heal_adapter is not None:
        check_adapter(config.heal_adapter)
        if config.heal_tokens == 0:
            raise UserError("An adapter to heal by, and 0 tokens to heal on: leave out heal_adapter, or heal_tokens.")
    if config.reuse is not None:
        check_reusable(config.reuse)
    check_out(config.out)


def check_budget(budget: dict[str, float]) -> None:
    """Raise a UserError unless the budget is a non-empty dict of known names and shares in (0, 1]."""
    if not isinstance(budget, dict) or not budget:
        raise UserError(f"A budget is needed, e.g. latency=0.75. Names: {', '.join(BUDGETS)}.")
    for name, share in budget.items():
        if name not in BUDGETS:
            raise UserError(f"Unknown budget {shown(name)}. {suggest(str(name), list(BUDGETS))}")
        if not _is_number(share) or not 0.0 < share <= 1.0:
            said = f"{share:g}" if _is_number(share) else shown(share)
            raise UserError(f"The budget {name}={said} must be a share of the original's, above 0 and at most 1.")


def _check_numbers(config: RefitConfig) -> None:
    if not 0.01 <= config.effort <= 100:
        raise UserError(f"The effort must lie between 0.01 and 100, not {config.effort:g}.")
    if config.heal_lr is not None and not 0 < config.heal_lr < 1:
        raise UserError(
            f"The healing rate must lie above 0 and below 1, not {config.heal_lr:g}. To heal nothing: 0 tokens."
        )
    for name, value in (("distill_steps", config.distill_steps), ("heal_tokens", config.heal_tokens)):
        if value is not None and value < 0:
            raise UserError(f"{name} must be 0 or more, not {value}; 0 leaves that step out.")
    check_seed(config.seed)
    if config.workers < 1:
        raise UserError(f"The number of workers must be at least 1, not {config.workers}.")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)
