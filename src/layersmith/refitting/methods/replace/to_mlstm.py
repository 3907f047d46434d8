"""Turn softmax attention into an mLSTM, whose memory is written and fades as each token says, from the trained weights.

Papers: arXiv 2405.04517 (the recurrence) and arXiv 2503.13440 (weights of attention carried over).
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.carried import carried, why_not
from layersmith.refitting.view import SublayerView


class ToMLSTM(Method):
    name = "mlstm"
    kinds = ("mixer",)
    papers = ("2405.04517",)
    builds = ("mlstm",)
    default = False
    saves = ("kv",)
    requires = "causal softmax attention of a known form"
    distils = True
    when_it_pays = (
        "Long contexts and decoding, where the cache becomes a memory of constant size; it runs only when asked for by "
        "name, since its outputs are far from the original's until it is trained."
    )
    differs = "No output gate, which the trained weights have no use for."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return why_not(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"out_gate": False}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return carried(view, "mlstm", settings)
