"""Averaged copies of a feed-forward, which healing trains on random shares of the tokens.

Paper: arXiv 2308.06093. The copies start equal, so that nothing changes by itself; after healing the fold
`mean_of_copies` leaves one layer with the mean of their weights.
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
    when_it_pays = "As a way to train a layer further, on little text; by itself it changes nothing and saves nothing."
    differs = "It goes on from a trained layer, where the paper also trains from scratch."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"n_experts": 2}, {"n_experts": 4}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        part = AveragedCopies.from_dense(view.ffn.operator, settings["n_experts"])
        return view.as_replacement(part.eval())
