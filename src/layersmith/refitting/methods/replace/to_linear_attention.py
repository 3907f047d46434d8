"""Turn softmax attention into linear attention, whose state has a constant size, from the trained weights.

Paper: LoLCATs, arXiv 2410.10254 (learned feature maps, then distillation).
"""

from __future__ import annotations

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView

#: Configuration that softmax and linear attention share by name.
SHARED = (
    "d_model",
    "n_heads",
    "n_kv_heads",
    "head_dim",
    "causal",
    "rope_theta",
    "rope_fraction",
    "rope_interleaved",
    "qk_norm",
    "qk_norm_eps",
    "bias",
    "out_bias",
)


class ToLinearAttention(Method):
    name = "linear_attention"
    kinds = ("mixer",)
    papers = ("2410.10254",)
    builds = ("linear_attention",)
    default = True
    saves = ("kv", "flops")
    requires = "softmax attention of a known form"
    distils = True
    when_it_pays = (
        "Long contexts and decoding, where the cache becomes a constant-size state; at short prefill it is not faster "
        "than fused softmax attention, and the clock says so."
    )
    differs = "The target is kernelised linear attention with a learned softmax feature map, without a decay."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.attention else "it is not a softmax attention of a known form"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"feature_map": "hedgehog"}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        config = {k: v for k, v in full.spec().items() if k in SHARED}
        linear = catalogue.build({"name": "linear_attention", **config, **settings}).to(view.device)
        missing, unexpected = linear.load_state_dict(full.state_dict(), strict=False)
        if unexpected or not all(name.startswith("phi_") for name in missing):
            raise RuntimeError(f"softmax and linear attention no longer share weights: {missing}, {unexpected}")
        return view.as_replacement(linear)
