"""Activator: a gated unit in the place of attention; no token reads another.

    h = x + W_3 (LN(GELU(W_1 norm(x))) * LN(W_2 norm(x))),   y = h + ffn(ffn_norm(h))

It is the control that a mixer has to beat: what is learned with it was learned from each token by itself, and from
whatever else in the model mixes (a mean over positions at its end, say).

Shapes: x (B, T, D) -> W_1 x, W_2 x (B, T, d_hidden) -> y (B, T, D). State: none is needed.

Paper: "Activator: GLU Activations as The Core Functions of a Vision Transformer". Confirmed in the authors' code: the
unit, and that nothing in the block mixes tokens.
Differs from the paper: its patches and its classifier are the model's business.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.block.shared.inside import Composed, Spec, ffn_of, norm_of, operators
from layersmith.contract import Operator, State, require_positive


class Activator(Composed):
    """A block without a mixer.

    d_model    width of the residual stream
    d_hidden   width of the gated unit
    ffn        spec of the feed-forward behind it
    norm       spec of the norms before both; None for none
    """

    name = "activator"

    def __init__(self, d_model: int, d_hidden: int, ffn: Spec, norm: Spec | None = None):
        super().__init__()
        require_positive(Activator, d_model=d_model, d_hidden=d_hidden)
        self.norm, self.ffn_norm = norm_of(norm, d_model), norm_of(norm, d_model)
        self.gate, self.up = nn.Linear(d_model, d_hidden), nn.Linear(d_model, d_hidden)
        self.gate_norm, self.up_norm = nn.LayerNorm(d_hidden), nn.LayerNorm(d_hidden)
        self.down = nn.Linear(d_hidden, d_model)
        self.ffn = ffn_of(ffn, d_model)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        h = self.norm(x)
        gated = self.gate_norm(F.gelu(self.gate(h))) * self.up_norm(self.up(h))
        x = x + self.down(gated.to(x.dtype))
        return x + self.ffn(self.ffn_norm(x)), {}

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(self.norm, self.ffn_norm), self.ffn))

    def own_flops(self, tokens: int) -> int:
        return 2 * tokens * sum(linear.weight.numel() for linear in (self.gate, self.up, self.down))
