"""NiN gate: a linear map of each token, gated element by element by a whole MLP-Mixer block over the sequence.

    g = x + TokenMLP(LN_1(x)),    g <- g + MLP(LN_2(g))        an MLP-Mixer block, residuals included
    y = (W_u x + b_u) * g

It holds weights for `length` positions and refuses longer sequences. As published it is not causal; the causal form is
that of `shared/positions.py`.

Shapes: x (B, T, D) -> g, y (B, T, D), T <= length; hidden units: token_hidden over positions, d_hidden over channels.
State: sums (B, token_hidden, D) and seen (B,), those of the token MLP.

Paper: "NiNformer: A Network in Network Transformer with Token Mixing Generated Gating Function" (from a description
of the released code, not read here).
Differs from the paper: the causal form; norm and feed-forward around it are the model's own.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.positions import TokenMLP


class NiNGate(Mixer):
    """A gate that has seen the sequence.

    d_model, d_hidden   width of the residual stream, and of the hidden layer over channels
    token_hidden        hidden units over positions
    length              the most tokens it can take
    causal              False: every token reads the whole sequence, as published, and no state is accepted
    """

    name = "nin_gate"

    def __init__(self, d_model: int, d_hidden: int, token_hidden: int, length: int, causal: bool = True):
        super().__init__()
        require_positive(NiNGate, d_model=d_model, d_hidden=d_hidden, token_hidden=token_hidden, length=length)
        self.causal = self.streams = causal
        self.longest = length
        self.value = nn.Linear(d_model, d_model)
        self.token_norm, self.channel_norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.tokens = TokenMLP(length, token_hidden, causal)
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        mixed, new = self.tokens(self.token_norm(x), state, mask)
        gate = x + mixed
        gate = gate + self.down(F.gelu(self.up(self.channel_norm(gate))))
        return self.value(x) * gate, new
