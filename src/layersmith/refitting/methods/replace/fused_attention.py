"""Softmax attention with fewer calls and equal outputs: one product for q, k and v, one rotation, no repeated keys.

Paper: none; nothing is approximated. The weights are those of the original, one below the other.
"""

from __future__ import annotations

import torch

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class FuseAttention(Method):
    name = "fused_attention"
    kinds = ("mixer",)
    builds = ("fused_attention",)
    default = True
    saves = ("latency",)
    chains = True
    requires = "softmax attention of a known form"
    when_it_pays = (
        "Nearly always while one token after another is written, where calls, copies of the cache and repeated keys "
        "take their share of the time; at prefill where keys are shared by several heads."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.attention else "it is not a softmax attention of a known form"

    def options(self, view: SublayerView) -> list[Settings]:
        """The products as they are, and a single token's shared out among the threads: the clock decides."""
        return [{"one_row": False}, {"one_row": True}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        part = catalogue.build({**full.spec(), "name": "fused_attention", **settings}).to(view.device)
        state = full.state_dict()
        for kind in ("weight", "bias") if full.q.bias is not None else ("weight",):
            state[f"qkv.{kind}"] = torch.cat([state.pop(f"{name}.{kind}") for name in "qkv"])
        part.load_state_dict(state)
        return view.as_replacement(part)
