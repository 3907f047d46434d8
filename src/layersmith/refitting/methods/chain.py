"""One method after another: what the first puts in place of a sublayer, in the number format of the second.

"width+int8_dynamic" narrows a feed-forward and rounds the matrices that are left; neither step knows of the other. The
second sees the sublayer as the first leaves it (`SublayerView.after`) and replaces the weight matrices in there, so
what both save is multiplied. The search weighs the chain against either step alone, site by site.

Paper: none.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.errors import UserError
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class Chain(Method):
    """The chain of two methods. Its settings are those of the first.

    Raises UserError unless a number format follows what it may follow.
    """

    default = False
    when_it_pays = "Where a budget is tighter than a number format alone can meet."

    def __init__(self, first: Method, then: Method):
        if not (first.chains and then.everywhere):
            raise UserError(
                f"{then.name} cannot follow {first.name}. The second step of a chain is a number format (int8_dynamic, "
                f"bf16), the first a method that leaves plain weight matrices, as width, heads and low_rank do."
            )
        self.first, self.then = first, then
        shown = {
            "name": f"{first.name}+{then.name}",
            "kinds": tuple(kind for kind in first.kinds if kind in then.kinds),
            "builds": (*first.builds, *then.builds),
            "saves": tuple(dict.fromkeys((*first.saves, *then.saves))),
            "requires": first.requires,
            "statistics": tuple(dict.fromkeys((*first.statistics, *then.statistics))),
        }
        vars(self).update(shown)

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return self.first.unsupported_reason(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return self.first.options(view)

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return self.follow(view, self.first.build(view, settings))

    def follow(self, view: SublayerView, replacement: Replacement) -> Replacement:
        """What the first step made, its weight matrices in the format of the second."""
        changed = view.after(replacement)
        reason = self.then.unsupported_reason(changed)
        if reason is not None:
            raise UserError(f"after {self.first.name} {reason}")
        return [*changed.placed, *self.then.build(changed, self.then.options(changed)[0])]
