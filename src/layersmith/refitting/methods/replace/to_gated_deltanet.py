"""Turn softmax attention into Gated DeltaNet, whose memory corrects itself and forgets, from the trained weights.

Papers: arXiv 2412.06464 (the recurrence) and arXiv 2503.13440 (weights of attention carried over).
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.carried import carried, why_not
from layersmith.refitting.view import SublayerView


class ToGatedDeltaNet(Method):
    name = "gated_deltanet"
    kinds = ("mixer",)
    papers = ("2412.06464",)
    builds = ("gated_deltanet",)
    default = False
    saves = ("kv",)
    requires = "causal softmax attention of a known form"
    distils = True
    when_it_pays = (
        "Long contexts and decoding, where the cache becomes a memory of constant size; it runs only when asked for by "
        "name, since its outputs are far from the original's until it is trained."
    )
    differs = "Neither convolution nor output gate, which the trained weights have no use for."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return why_not(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"conv": None, "out_gate": False}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return carried(view, "gated_deltanet", settings)
