"""What no mix could reach, whatever is built: such a budget is refused in the first minute, not after the library."""

from __future__ import annotations

from torch import nn

from layersmith.anatomy import Anatomy
from layersmith.errors import UserError
from layersmith.measuring.shape import Shape
from layersmith.refitting.score.costs import counted
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.report.units import apart


def check_in_reach(model: nn.Module, anatomy: Anatomy, shape: Shape, budget: dict[str, float]) -> None:
    """Raise a UserError for a budget below what lies outside of every site, or of something the model has none of.

    Latency is left out: what takes how long is known when it is timed.
    """
    exact = {name: share for name, share in budget.items() if name != "latency"}
    costs = counted(model, anatomy, shape) if exact else SiteCosts()
    for name, share in exact.items():
        if costs.total.of(name) == 0:
            kept = "keeps no cache" if name == "kv" else f"has no {name} to count"
            raise UserError(
                f"{type(model).__name__} {kept} at {shape}, so the budget {name}={share:g} says nothing. Leave it out."
            )
        least = costs.outside.share(name, costs.total)
        if least > share:
            raise UserError(
                f"The budget {name}={share:g} cannot be met by any method. The best reachable, if every sublayer cost "
                f"nothing, is {name}={apart(least, share, 3)[0]} of the original: the rest lies outside of them, in "
                f"the embedding for example. Ask for more than that."
            )
