"""What a user may ask of `race`: one field an option, with the words that `layersmith race --help` shows.

Nothing heavy is imported here, so the command line is made from this class and refuses a slip at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from layersmith import catalogue
from layersmith.errors import MissingExtra, UserError, suggest
from layersmith.names import check_out, texts
from layersmith.papers import papers
from layersmith.racing.expected import check_expected
from layersmith.racing.optimizers import check_optimizer
from layersmith.racing.tasks import check_task

#: What may be held equal, each with what it is; for the last the steps differ, for the others the widths.
BUDGETS = {
    "params": "parameters",
    "flops": "floating-point operations of one whole training",
    "state_bytes": "bytes kept to go on after the last token",
    "seconds": "of one whole training",
}
#: Who runs when nobody is named.
DEFAULT_MIXERS = ("softmax_attention", "linear_attention", "deltanet", "shaped_attention")
DEFAULT_BUDGET = {"params": 100_000.0}
#: The least number of seeds that a verdict needs.
ENOUGH_SEEDS = 3
#: The least number of sizes that a power law is fitted to.
ENOUGH_SIZES = 3
#: What entrants may differ in on the command line.
COMPARED = ("mixer", "ffn", "norm", "block", "optimizer")
#: A class of the user's own.
OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

#: What entries of a race file are made of, and in words.
_KINDS: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("task", "claim", "out", "ray"), str, "text"),
    ((*COMPARED, "lr", "weight_decay", "scale", "papers"), list, "a list"),
    (("budget", "task_settings", "entrants", "expect"), dict, "names and values"),
    (("layers", "heads", "steps", "batch", "seeds", "seed", "workers"), int, "a whole number"),
    (("tolerance",), (int, float), "a number"),
)


@dataclass(frozen=True)
class RaceConfig:
    """The options of `race`; a race file has the same names. Fields without help are for files and Python alone."""

    task: str = field(default="recall", metadata={"help": "what is learned"})
    mixer: list[str] | None = field(default=None, metadata={"help": "mixers to compare, separated by commas"})
    ffn: list[str] | None = field(default=None, metadata={"help": "feed-forwards to compare, separated by commas"})
    norm: list[str] | None = field(default=None, metadata={"help": "norms to compare, separated by commas"})
    block: list[str] | None = field(
        default=None, metadata={"help": "arrangements of a layer to compare, separated by commas"}
    )
    optimizer: list[str] | None = field(
        default=None, metadata={"help": "optimizers to compare, separated by commas; adamw if not given"}
    )
    budget: dict[str, float] | None = field(
        default=None, metadata={"help": "what is equal for all: params=100k, flops=1T, state_bytes=20k or seconds=30"}
    )
    tolerance: float = field(default=0.05, metadata={"help": "by which share entrants may differ in it"})
    scale: list[float] | None = field(
        default=None, metadata={"help": "shares of the budget to train at as well, for a power law: 0.25,0.5"}
    )
    layers: int = field(default=2, metadata={"help": "layers of a model"})
    heads: int = field(default=2, metadata={"help": "heads of a mixer that has heads"})
    steps: int = field(default=600, metadata={"help": "of one training"})
    batch: int = field(default=32, metadata={"help": "examples of one step"})
    lr: list[float] | None = field(
        default=None, metadata={"help": "learning rates to try; widened where an end is best; one alone is kept"}
    )
    weight_decay: list[float] | None = field(default=None, metadata={"help": "weight decays to try"})
    seeds: int = field(default=3, metadata={"help": "trainings of every entrant that the verdict rests on"})
    seed: int = field(default=0, metadata={"help": "the first of them"})
    out: Path = field(
        default=Path("out/race"), metadata={"help": "folder for result.json, leaderboard.csv, report.html, workspace"}
    )
    workers: int | None = field(
        default=None, metadata={"help": "trainings at the same time, each on one thread; one per core if not given"}
    )
    ray: str | None = field(
        default=None, metadata={"help": "address of a Ray cluster to train on, or auto (needs the extra 'ray')"}
    )
    task_settings: dict[str, Any] | None = None
    entrants: dict[str, dict[str, Any]] | None = None
    claim: str | None = None
    expect: dict[str, Any] | None = None
    papers: list[str] | None = None

    @property
    def lrs(self) -> list[float]:
        return sorted(self.lr or (1e-3, 3e-3, 1e-2))

    @property
    def shares(self) -> list[float]:
        """Shares of the budget that are trained at; the whole is one of them."""
        return sorted({*(self.scale or ()), 1.0})

    @property
    def weight_decays(self) -> list[float]:
        return sorted(self.weight_decay or (0.01,))


def check(config: RaceConfig) -> None:
    """Raise a UserError for options that no race could mean; nothing is loaded, and nothing written, for it."""
    check_task(config.task)
    for family in ("mixer", "ffn", "norm", "block"):
        for name in getattr(config, family) or []:
            _check_part(name, family)
    for name in config.optimizer or []:
        check_optimizer(name)
    if config.entrants is not None and any(getattr(config, each) for each in COMPARED):
        raise UserError(
            "Name the entrants either by entrants or by mixer, ffn, norm, block and optimizer, not by both."
        )
    entrants = entrants_of(config)
    if len(entrants) < 2:
        raise UserError(
            "A race needs at least two entrants: name several mixers, feed-forwards, norms, blocks, optimizers."
        )
    if config.expect is not None:
        check_expected(config.expect, list(entrants))
    for key in config.papers or []:
        if key not in papers():
            raise UserError(f"There is no source paper {key!r}. `layersmith catalogue WORDS --papers` finds its id.")
    budget_of(config)
    _check_scale(config)
    _check_numbers(config)
    if config.ray is not None and find_spec("ray") is None:
        raise MissingExtra("ray", "ray", "Training on a Ray cluster")
    check_out(config.out)


def _check_part(name: str, family: str) -> None:
    if ":" not in name:
        catalogue.check_family(name, family)
    elif not OWN.fullmatch(name):
        raise UserError(f"{name!r} is no class of your own: write package.module:Class.")


def _check_scale(config: RaceConfig) -> None:
    if config.scale is None:
        return
    if any(not 0 < share <= 1000 for share in config.scale):
        raise UserError(f"Shares of the budget must lie above 0, not {config.scale}.")
    if len(config.shares) < ENOUGH_SIZES:
        raise UserError(
            f"A power law needs at least {ENOUGH_SIZES} sizes, and {len(config.shares)} would be trained: the budget "
            f"and the shares of it that --scale names. Give two more shares, such as 0.25,0.5."
        )
    if "seconds" in (config.budget or {}):
        raise UserError("--scale needs sizes that are the same in every run: a budget of params, flops or state_bytes.")


def entrants_of(config: RaceConfig) -> dict[str, dict[str, Any]]:
    """Name -> what its spec says besides what all have: every combination of what is compared.

    A name tells what differs; a second entrant of a name is numbered, so that one can run against itself.
    """
    if config.entrants is not None:
        return config.entrants
    named = {family: getattr(config, family) for family in COMPARED if getattr(config, family)}
    chosen = named or {"mixer": list(DEFAULT_MIXERS)}
    told = [family for family, names in chosen.items() if len(names) > 1] or list(chosen)
    entrants: dict[str, dict[str, Any]] = {}
    for combination in product(*chosen.values()):
        spec = dict(zip(chosen, combination, strict=True))
        name = "+".join(spec[family] for family in told)
        same = sum(other.partition(" #")[0] == name for other in entrants)
        entrants[f"{name} #{same + 1}" if same else name] = spec
    return entrants


def names_own_code(config: RaceConfig) -> bool:
    """Whether an entrant is a class of the user's own, whose code will run because it was named."""
    specs = [spec for given in entrants_of(config).values() for spec in (given, *(given.get("layers") or []))]
    families = ("mixer", "ffn", "norm", "block")
    found = [spec.get(family) for spec in specs if isinstance(spec, dict) for family in families]
    return any(":" in text for each in found for text in texts(each))


def budget_of(config: RaceConfig) -> tuple[str, float]:
    """Which quantity is equal, and how much of it."""
    budget = config.budget or DEFAULT_BUDGET
    for name, amount in budget.items():
        if name not in BUDGETS:
            raise UserError(f"Unknown budget {name!r}. {suggest(name, list(BUDGETS))}")
        if not amount > 0:
            raise UserError(f"The budget {name}={amount:g} must be more than 0.")
    if len(budget) > 1:
        raise UserError(f"One budget is held equal, not {len(budget)} ({', '.join(budget)}). The table shows them all.")
    ((name, amount),) = budget.items()
    return name, float(amount)


def from_file(path: Path, config: RaceConfig) -> RaceConfig:
    """The race a YAML file describes; what `config` has that is not a default replaces what the file says."""
    import yaml

    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"The race file {str(path)!r} cannot be read: {' '.join(str(error).split())}.") from error
    known = [option.name for option in fields(RaceConfig)]
    if not isinstance(found, dict):
        raise UserError(f"The race file {str(path)!r} holds no names and values. Names: {', '.join(known)}.")
    for name in found:
        if name not in known:
            raise UserError(f"The race file {str(path)!r} has an entry {name!r}. {suggest(str(name), known)}")
    given = {o.name: v for o in fields(RaceConfig) if (v := getattr(config, o.name)) != o.default}
    _check_kinds(found)
    if "out" in found:
        found["out"] = Path(found["out"]).expanduser()
    return replace(RaceConfig(**found), **given)


def _check_kinds(found: dict[str, Any]) -> None:
    """YAML may hold anything: refuse what is not of the kind that the option of that name takes."""
    kinds = {name: (kind, words) for names, kind, words in _KINDS for name in names}
    for name, value in found.items():
        kind, words = kinds[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UserError(f"{name} in a race file must be {words}, not {value!r}.")
    for name, spec in (found.get("entrants") or {}).items():
        if not isinstance(name, str) or not isinstance(spec, dict):
            raise UserError(f"An entrant in a race file is a name and a dict, not {name!r}: {spec!r}.")
    for name in ("lr", "weight_decay", "scale"):
        if any(not isinstance(value, int | float) for value in found.get(name, [])):
            raise UserError(f"{name} in a race file must be a list of numbers (3e-3 is text in YAML: write 3.0e-3).")
    if any(not isinstance(value, int | float) for value in found.get("budget", {}).values()):
        raise UserError("budget in a race file must be a name and a number, such as params: 100000.")


def _check_numbers(config: RaceConfig) -> None:
    for name in ("layers", "heads", "steps", "batch", "seeds"):
        if getattr(config, name) < 1:
            raise UserError(f"{name} must be at least 1, not {getattr(config, name)}.")
    if config.workers is not None and config.workers < 1:
        raise UserError(f"The number of workers must be at least 1, not {config.workers}.")
    if not 0 <= config.seed < 2**31:
        raise UserError(f"The seed must be a whole number from 0 to {2**31 - 1}, not {config.seed}.")
    if not 0 < config.tolerance < 1:
        raise UserError(f"The tolerance must lie above 0 and below 1, not {config.tolerance:g}.")
    if any(not 0 < lr < 10 for lr in config.lrs):
        raise UserError(f"Learning rates must lie above 0 and below 10, not {config.lrs}.")
    if any(not 0 <= decay < 10 for decay in config.weight_decays):
        raise UserError(f"Weight decays must be 0 or more and below 10, not {config.weight_decays}.")
