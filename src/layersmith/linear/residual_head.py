"""Residual head: a linear map to another width with a feed-forward beside it, both reading the same input.

    y = W_skip x + W_down act(W_up x)                  or, gated,  W_skip x + W_down (act(W_gate x) * W_up x)

A retrieval model ends in one small linear map, whose outputs are normalised and compared token by token; this is that
map with room to bend, upscaled inside. W_down starts as zeros: then it is W_skip, the map that was there. With act
"identity" and no gate it is a linear map that is only trained another way.

Shapes: x (..., d_in) -> hidden (..., d_hidden) -> y (..., d_out).

Paper: "Simple Projection Variants Improve ColBERT Performance". Not confirmed, from memory and its abstract: the
variants, and that the residual path is a map of its own.
Differs from the paper: neither its deepest variants nor its training are here; W_down starts as zeros.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Linear, require_positive
from layersmith.errors import suggest


def _identity(x: Tensor) -> Tensor:
    return x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": _identity,
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}


class ResidualHead(Linear):
    """A linear map with a feed-forward beside it.

    d_in, d_out   widths of input and output
    d_hidden      inner width of the feed-forward
    act           "identity", "relu", "gelu" or "silu"
    gated         multiply act(W_gate x) with W_up x
    """

    name = "residual_head"

    def __init__(self, d_in: int, d_out: int, d_hidden: int, act: str = "gelu", gated: bool = False):
        super().__init__()
        require_positive(ResidualHead, d_in=d_in, d_out=d_out, d_hidden=d_hidden)
        if act not in ACTIVATIONS:
            raise ValueError(f"ResidualHead: act={act!r} is unknown. {suggest(act, list(ACTIVATIONS))}")
        self.act = ACTIVATIONS[act]
        self.skip = nn.Linear(d_in, d_out, bias=False)
        self.up = nn.Linear(d_in, d_hidden, bias=False)
        self.gate = nn.Linear(d_in, d_hidden, bias=False) if gated else None
        self.down = nn.Linear(d_hidden, d_out, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.act(self.up(x)) if self.gate is None else self.act(self.gate(x)) * self.up(x)
        return self.skip(x) + self.down(hidden)
