"""Merge key-value heads: neighbouring heads share one key and one value head, the mean of what they had.

Paper: GQA conversion by mean pooling, arXiv 2305.13245; the choice per layer as in Puzzle, arXiv 2411.19146.
"""

from __future__ import annotations

import torch

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class KVMerge(Method):
    name = "kv_merge"
    kinds = ("mixer",)
    papers = ("2305.13245", "2411.19146")
    builds = ("softmax_attention",)
    default = True
    saves = ("kv", "params", "bytes", "flops", "latency")
    chains = True
    requires = "softmax attention of a known form with more than one key-value head"
    distils = True
    when_it_pays = (
        "The key-value cache shrinks by the factor merged, and with it decoding at long contexts; prefill hardly "
        "changes."
    )
    differs = "A short local distillation follows, because pooled heads are a rough start."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.attention is None:
            return "it is not a softmax attention of a known form"
        return None if self.options(view) else "it has a single key-value head already"

    def options(self, view: SublayerView) -> list[Settings]:
        heads = view.attention.operator.k.out_features // view.attention.operator.head_dim
        return [{"kv_heads": n} for n in range(heads - 1, 0, -1) if heads % n == 0]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        merged = catalogue.build({**full.spec(), "n_kv_heads": settings["kv_heads"]}).to(view.device)
        state = full.state_dict()
        for name in ("k.weight", "k.bias", "v.weight", "v.bias"):
            if name in state:
                state[name] = _pool(state[name], settings["kv_heads"], full.head_dim)
        merged.load_state_dict(state)
        return view.as_replacement(merged)


def _pool(rows: torch.Tensor, heads: int, head_dim: int) -> torch.Tensor:
    """Mean over groups of neighbouring heads of a (heads * head_dim, ...) weight or bias."""
    grouped = rows.reshape(heads, -1, head_dim, *rows.shape[1:])
    return grouped.mean(1).reshape(heads * head_dim, *rows.shape[1:])
