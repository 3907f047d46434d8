"""EMoE: a feed-forward's neurons in groups by their keys, chosen by the groups' mean keys, without a new parameter.

Paper: Qiu et al. 2023, "Emergent Mixture-of-Experts". Groups are balanced k-means clusters of the keys (of the gate's
rows in a gated layer); a token uses the k groups whose mean pre-activation is largest, each with weight 1. With all
groups it is the original.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.split_ffn import SplitFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.experts.partitions import by_keys, keys_of
from layersmith.refitting.methods.experts.refusals import refuses_split
from layersmith.refitting.view import SublayerView

EXPERTS = 8


class EMoE(Method):
    name = "emoe"
    kinds = ("ffn",)
    papers = ("emergent-mixture-experts",)
    builds = ("split_ffn",)
    default = False
    saves = ("flops",)
    requires = "a plain or gated feed-forward whose hidden channels divide into the experts"
    distils = True
    when_it_pays = "As a start for further tuning that adds no parameters; it reads no text at all."
    differs = "In a refit it stands in every layer that the search gives it, not in a few late ones."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return refuses_split(view, EXPERTS)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"k": 4}, {"k": 2}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense = view.ffn.operator
        groups = view.once("groups by keys", lambda: by_keys(keys_of(dense), EXPERTS))
        return view.as_replacement(SplitFFN.from_dense(dense, groups, settings["k"], "keys").eval())
