"""Drop a sublayer: it adds nothing to the residual stream any more.

Paper: arXiv 2406.15786, "What Matters in Transformers? Not All Attention is Needed", drops each sublayer with its norm
(confirmed in the released code). Which ones go is decided here by the measured KL of dropping them; the paper's own
score is that of the method `llm_drop`. The floor "zero" of every site is this candidate.
"""

from __future__ import annotations

from typing import ClassVar

from layersmith import catalogue
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class Drop(Method):
    name = "drop"
    kinds: ClassVar[tuple[str, ...]] = ("ffn", "mixer", "block")
    papers: ClassVar[tuple[str, ...]] = ("2406.15786",)
    builds = ("zero",)
    default = True
    saves = ("latency", "params", "bytes", "flops", "kv")
    when_it_pays = "Late attention layers of deep decoders; it saves time, weights and cache."
    differs = (
        "Measured harm decides instead of the paper's score, and a sublayer's norm stays where something else reads it."
    )

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        zero = catalogue.build({"name": "zero", "d_model": view.site.d_model})
        replacement = view.as_replacement(zero.to(view.device))
        identity = {"name": "identity", "d_model": view.site.d_model}
        for path in _own_norm(view):
            replacement.append((Edit(path, identity, {}), catalogue.build(identity).to(view.device)))
        return replacement


def _own_norm(view: SublayerView) -> list[str]:
    """Path of the norm that only this sublayer reads ("layers.3.attn" -> "layers.3.attn_norm"), if there is one.

    It runs before the sublayer, and every other sublayer of the block has a norm of its own (in parallel blocks one
    norm may feed both).
    """
    inside = view.anatomy.in_block(view.site.block)
    names = [s.name for s in inside]
    norm = view.site.name + "_norm"
    if norm not in names or view.site.name not in names or names.index(norm) > names.index(view.site.name):
        return []
    others = [s.name for s in inside if s.kind in ("ffn", "mixer") and s.name != view.site.name]
    if not all(other + "_norm" in names for other in others):
        return []
    return [inside[names.index(norm)].modules[0]]
