"""Keep only the k strongest hidden channels of each token in a feed-forward.

Papers: arXiv 2511.09323, Mixture-of-Channels (gated feed-forwards: by the gate), and arXiv 2210.06313 (activation
sparsity of trained models; plain ones: by the activation). The weights are the trained ones.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.contract import FeedForward
from layersmith.ffn.topk_glu import TopKGLU
from layersmith.ffn.topk_mlp import TopKMLP
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class TopK(Method):
    name = "topk"
    kinds = ("ffn",)
    papers = ("2511.09323", "2210.06313")
    builds = ("topk_glu", "topk_mlp")
    default = True
    saves = ("flops", "latency")
    requires = "a plain feed-forward, or a gated one without biases"
    when_it_pays = (
        "Decoding one token at a time, where only the selected rows of the weights have to be read; at prefill every "
        "token picks other rows and nothing is saved, which the measured latency shows."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.ffn is None:
            return "it is not a plain or gated feed-forward"
        return gated_without_bias(view) if view.ffn.operator.name == "glu" else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": 0.5}, {"keep": 0.2}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense = view.ffn.operator
        k = max(1, round(settings["keep"] * dense.down.in_features))
        part: FeedForward = TopKGLU.from_glu(dense, k) if dense.name == "glu" else TopKMLP.from_mlp(dense, k)
        return view.as_replacement(part)


def gated_without_bias(view: SublayerView) -> str | None:
    """Why the site is not a gated feed-forward without biases; None when it is one."""
    if view.ffn is None or view.ffn.operator.name != "glu":
        return "it is not a gated feed-forward"
    return "its feed-forward has biases" if view.ffn.operator.spec()["bias"] else None
