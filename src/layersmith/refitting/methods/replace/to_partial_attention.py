"""Put a small feed-forward into the heads of a trained attention, as one that changes nothing yet.

Paper: arXiv 2310.14921, "PartialFormer". Each head's output is added to what the small feed-forward makes of it, which
at first is 0, so the outputs are the original's.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.mixer.partial import PartialAttention
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView


class ToPartialAttention(Method):
    name = "partial_attention"
    kinds = ("mixer",)
    papers = ("2310.14921",)
    builds = ("partial_attention",)
    default = False
    saves = ()
    requires = "softmax attention of a known form"
    distils = True
    when_it_pays = (
        "As a start for training a model without its separate feed-forwards; it is larger than the attention it "
        "replaces and runs only when asked for by name."
    )
    differs = "A trained start, with the queries and keys of this layer alone, and no gate: that would change outputs."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.attention else "it is not a softmax attention of a known form"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        config = {k: v for k, v in full.spec().items() if k != "name"}
        part = PartialAttention(**config, ratio=2, residual=True).to(view.device)
        state = {f"attention.{k}": v for k, v in full.state_dict().items() if not k.startswith("o.")}
        state |= {f"o.{k}": v for k, v in full.o.state_dict().items()}
        eye = torch.eye(full.head_dim, device=view.device)
        none = eye.new_zeros(2 * full.head_dim)
        state |= {"attention.o.up.weight": torch.cat([eye, -eye]), "attention.o.up.bias": none}
        state |= {"attention.o.down.weight": none.expand(len(eye), -1), "attention.o.down.bias": none[: len(eye)]}
        part.load_state_dict(state)
        return view.as_replacement(part)
