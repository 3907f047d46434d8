"""Let each query of a trained attention read its best keys only: so many keys cannot change its outputs less.

Paper: "IceFormer: Accelerated Inference with Long-Sequence Transformers on CPUs", whose retrieval is training-free.
"""

from __future__ import annotations

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.limits import shared_config, text_length
from layersmith.refitting.view import SublayerView

#: Shares of a text whose keys are read, mildest first.
SHARES = (1 / 4, 1 / 8, 1 / 16)


class TopKRetrieval(Method):
    name = "topk_retrieval"
    kinds = ("mixer",)
    papers = ("iceformer-accelerated-inference-long-sequence",)
    builds = ("topk_attention",)
    default = False
    saves = ("flops",)
    forgets = True
    requires = "softmax attention of a known form without a window"
    distils = True
    when_it_pays = (
        "To see how few keys a layer needs, before an index is built for them; here all scores are still computed, and "
        "only values are left out, so it is no faster and runs only when asked for by name."
    )
    differs = "The best keys are found exactly, not by an index."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.attention is None:
            return "it is not a softmax attention of a known form"
        return "it has a window already" if view.attention.operator.window is not None else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"k": max(1, int(text_length(view) * share))} for share in SHARES]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        part = catalogue.build({"name": "topk_attention", **shared_config(full), **settings}).to(view.device)
        part.load_state_dict(full.state_dict())
        return view.as_replacement(part)
