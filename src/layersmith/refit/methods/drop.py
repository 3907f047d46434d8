"""Drop a sublayer: it adds nothing to the residual stream any more.

Paper: P038, "What Matters in Transformers? Not All Attention is Needed". The importance of a sublayer there is
1 - mean cosine(stream before, stream after); here the measured KL of dropping it decides, and the floor "zero" of
every site is this candidate. When it pays: late attention layers of deep decoders; it saves time, weights and cache.
Differs from the paper: the sublayer's own input norm goes with it where nothing else reads that norm.
"""

from __future__ import annotations

from layersmith import catalogue
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.refit.method import Method, Settings, SublayerView


class Drop(Method):
    name = "drop"
    kinds = ("ffn", "mixer", "block")
    papers = ("P038",)
    saves = ("latency", "params", "bytes", "flops", "kv")

    def grid(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        replacement = view.stand_in(catalogue.build({"name": "zero", "d_model": view.site.d_model}))
        identity = {"name": "identity", "d_model": view.site.d_model}
        for path in _own_norm(view):
            replacement.append((Edit(path, identity, {}), catalogue.build(identity)))
        return replacement


def _own_norm(view: SublayerView) -> list[str]:
    """Paths of the norm that only this sublayer reads ("layers.3.attn" -> "layers.3.attn_norm"), if there is one."""
    return [
        s.modules[0]
        for s in view.anatomy.in_block(view.site.block)
        if s.kind == "norm" and s.name == view.site.name + "_norm" and s.pre
    ]
