"""A gated feed-forward with gate and up as one product, and equal outputs.

Paper: none; nothing is approximated. The weights are those of the original, one below the other.
"""

from __future__ import annotations

import torch

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class FuseGLU(Method):
    name = "fused_glu"
    kinds = ("ffn",)
    builds = ("fused_glu",)
    default = True
    saves = ("latency",)
    chains = True
    requires = "a gated feed-forward"
    when_it_pays = (
        "While one token after another is written, most of all where the machine's BLAS leaves the product with a "
        "single row to one thread."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        gated = view.ffn is not None and view.ffn.operator.name == "glu"
        return None if gated else "it is not a gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        """The products as they are, and a single token's shared out among the threads: the clock decides."""
        return [{"one_row": False}, {"one_row": True}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        glu = view.ffn.operator
        part = catalogue.build({**glu.spec(), "name": "fused_glu", **settings}).to(view.device)
        state = glu.state_dict()
        for kind in ("weight", "bias") if glu.gate.bias is not None else ("weight",):
            state[f"gate_up.{kind}"] = torch.cat([state.pop(f"{name}.{kind}") for name in ("gate", "up")])
        part.load_state_dict(state)
        return view.as_replacement(part)
