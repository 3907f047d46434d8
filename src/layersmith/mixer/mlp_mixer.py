"""MLP-Mixer: tokens are mixed by a two-layer MLP over their positions, the same for every channel.

    Y = W_2 gelu(W_1 X + b_1) + b_2        X (T, D), W_1 (H, N), W_2 (N, H)

It holds weights for N = `length` positions and refuses longer sequences. As published it is not causal; the causal form
gives the hidden units places among the positions, of which a unit reads what comes before and is read by what comes
after (`shared/positions.py`).

Shapes: x (B, T, D) -> hidden (B, token_hidden, D) -> y (B, T, D), T <= length.
State: sums (B, token_hidden, D), W_1 X so far; seen (B,), the real tokens.

Paper: Tolstikhin et al. 2021, "MLP-Mixer: An all-MLP Architecture for Vision", arXiv 2105.01601 (the token-mixing
half of its block; its norm and the channel-mixing half are the model's own).
Differs from the paper: the causal form.
"""

from __future__ import annotations

from torch import Tensor

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.positions import TokenMLP


class MLPMixer(Mixer):
    """An MLP over positions.

    d_model         width of the residual stream
    token_hidden    hidden units, which the positions share
    length          the most tokens it can take
    causal          False: every token reads the whole sequence, as published, and no state is accepted
    """

    name = "mlp_mixer"

    def __init__(self, d_model: int, token_hidden: int, length: int, causal: bool = True):
        super().__init__()
        require_positive(MLPMixer, d_model=d_model, token_hidden=token_hidden, length=length)
        self.causal = self.streams = causal
        self.longest = length
        self.tokens = TokenMLP(length, token_hidden, causal)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        y, new = self.tokens(x, state, mask)
        return y.to(x.dtype), new
