"""Keep only the k strongest gate activations of each token in a gated feed-forward.

Papers: P382, Mixture-of-Channels, and P020 (activation sparsity of trained models). When it pays: decoding one token
at a time, where only the selected rows of the weights have to be read; at prefill every token picks other rows and
nothing is saved, which the measured latency shows. The weights are the trained ones.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.topk_glu import TopKGLU
from layersmith.refit.method import Method, Settings, SublayerView


class TopK(Method):
    name = "topk"
    kinds = ("ffn",)
    papers = ("P382", "P020")
    builds = ("topk_glu",)
    saves = ("flops", "latency")

    def refuses(self, view: SublayerView) -> str | None:
        return gated_without_bias(view)

    def grid(self, view: SublayerView) -> list[Settings]:
        return [{"keep": 0.5}, {"keep": 0.2}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        glu = view.ffn.operator
        k = max(1, round(settings["keep"] * glu.down.in_features))
        return view.stand_in(TopKGLU.from_glu(glu, k))


def gated_without_bias(view: SublayerView) -> str | None:
    """Why the site is not a gated feed-forward without biases; None when it is one."""
    if view.ffn is None or view.ffn.operator.name != "glu":
        return "it is not a gated feed-forward"
    return "its feed-forward has biases" if view.ffn.operator.spec()["bias"] else None
