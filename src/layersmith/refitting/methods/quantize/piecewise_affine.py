"""Every weight matrix of a sublayer with products that are additions of bits: what is lost without a multiplier.

Paper: "Multiplication-Free Transformer Training via Piecewise Affine Operations".
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.linear.piecewise_affine import PiecewiseAffine
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView


class ToPiecewiseAffine(Method):
    name = "piecewise_affine"
    kinds = ("ffn", "mixer", "head")
    papers = ("multiplication-free-transformer-training-piecewise",)
    missing = "softmax, norms, loss and optimizer without multiplications"
    builds = ("piecewise_affine",)
    default = False
    saves = ("flops",)
    requires = "weight matrices"
    distils = True
    when_it_pays = (
        "On a processor that adds and cannot multiply; here the additions are emulated, so that it takes no FLOPs and "
        "far more time, and it runs only when asked for by name."
    )
    differs = "Trained weights are kept, and the products lose up to a ninth until it is distilled."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return each_matrix(view, PiecewiseAffine.from_weight)
