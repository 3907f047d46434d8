"""Averaged copies of a feed-forward: equal ones at first, so that nothing changes by itself.

Paper: arXiv 2308.06093. Tokens are dealt out to the copies in training mode alone. Healing is done in evaluation mode,
where it is the mean of the copies that is trained; the fold `mean_of_copies` then leaves one layer with that mean.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.averaged_copies import AveragedCopies
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class ExpertsAveraging(Method):
    name = "averaged_copies"
    kinds = ("ffn",)
    papers = ("experts-weights-averaging",)
    builds = ("averaged_copies",)
    default = False
    saves = ()
    requires = "a plain or gated feed-forward"
    distils = True
    when_it_pays = "Not by itself, since healing trains the mean of the copies; to compare with healing of one layer."
    differs = "It goes on from a trained layer, and healing deals out no tokens; the paper also trains from scratch."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"n_experts": 2}, {"n_experts": 4}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        part = AveragedCopies.from_dense(view.ffn.operator, settings["n_experts"])
        return view.as_replacement(part.eval())
