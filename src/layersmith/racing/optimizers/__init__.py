"""The optimizers of a race, one file each, and the one explicit table of them: name -> class, resolved lazily."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layersmith.errors import UserError, suggest

if TYPE_CHECKING:
    from layersmith.racing.optimizer import Rule

OPTIMIZERS: dict[str, str] = {
    "adamw": "layersmith.racing.optimizers.adamw:AdamW",
    "blockwise_adamw": "layersmith.racing.optimizers.blockwise_adamw:BlockwiseAdamW",
    "cautious_adamw": "layersmith.racing.optimizers.cautious_adamw:CautiousAdamW",
    "gradient_noise": "layersmith.racing.optimizers.gradient_noise:GradientNoise",
    "lottery_ticket": "layersmith.racing.optimizers.lottery_ticket:LotteryTicket",
    "max_norm": "layersmith.racing.optimizers.max_norm:MaxNorm",
    "mkor": "layersmith.racing.optimizers.mkor:Mkor",
    "muon": "layersmith.racing.optimizers.muon:Muon",
    "mup_adamw": "layersmith.racing.optimizers.mup_adamw:MupAdamW",
    "sam": "layersmith.racing.optimizers.sam:Sam",
    "sgd": "layersmith.racing.optimizers.sgd:Sgd",
    "two_four": "layersmith.racing.optimizers.two_four:TwoFour",
    "whitened_adamw": "layersmith.racing.optimizers.whitened_adamw:WhitenedAdamW",
}
#: Who trains when nobody is named.
DEFAULT = "adamw"


def check_optimizer(name: str) -> None:
    """Raise a UserError, with the nearest names, unless there is an optimizer of that name."""
    if name not in OPTIMIZERS:
        raise UserError(f"There is no optimizer {name!r}. {suggest(name, list(OPTIMIZERS))}")


def rule_class(name: str) -> type[Rule]:
    """The class of that name: what is known of an optimizer before it is built."""
    check_optimizer(name)
    module, _, found = OPTIMIZERS[name].partition(":")
    rule: type[Rule] = getattr(importlib.import_module(module), found)
    return rule


def build_rule(spec: str | dict[str, Any]) -> Rule:
    """The optimizer of a name, or of {"name": ..., settings}. UserError for settings that it does not take."""
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = settings.pop("name", None)
    if not isinstance(name, str):
        raise UserError(f"An optimizer is a name, or a dict with a 'name' and settings; this one is {spec!r}.")
    rule: Any = rule_class(name)
    try:
        return rule(**settings)
    except TypeError as error:
        raise UserError(f"The optimizer {name!r} does not take these settings: {error}.") from error
    except ValueError as refused:
        raise UserError(str(refused)) from refused
