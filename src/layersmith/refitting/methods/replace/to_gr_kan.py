"""Turn a feed-forward into a GR-KAN: learned rational activations in place of fixed ones, weights carried over.

Paper: arXiv 2409.10594, "Kolmogorov-Arnold Transformer". From a gated feed-forward it drops one of three matrices,
which does save time.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.gr_kan import GRKAN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView

GROUPS = 8


class ToGRKAN(Method):
    name = "gr_kan"
    kinds = ("ffn",)
    papers = ("2409.10594",)
    builds = ("gr_kan",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward whose widths are multiples of the groups"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "It is not cheaper than the MLP it comes from; it is offered when asked for, to see what learned activations "
        "are worth on a trained model."
    )
    differs = "The start is a trained layer, not a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.ffn is None:
            return "it is not a plain or gated feed-forward"
        widths = (view.site.d_model, view.ffn.operator.down.in_features)
        return f"its widths {widths} are not multiples of {GROUPS}" if any(w % GROUPS for w in widths) else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"groups": GROUPS}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return view.as_replacement(GRKAN.from_mlp(nearest_mlp(view), settings["groups"]))
