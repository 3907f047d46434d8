"""A feed-forward over the whole sequence in place of attention: all tokens in one vector, one hidden layer, all out.

    z = b + sum_s W_s x_s                 (causal: z_t = b + the sum over s <= t)              s counts real tokens
    y_t = c_t + V_t relu(z)               (causal: relu(z_t))

W = [W_1 ... W_L] and V are the two matrices of a ReLU feed-forward on the flattened tokens. Masking the future of a
token leaves it the first terms of the sum, so that the causal form is one running sum, whose last value is the state.
A map per position: a sequence may have at most `length` tokens.

Shapes: x (B, T, D) -> z (B, 1 or T, d_hidden) -> y (B, T, D); T <= length.
State: sum (B, d_hidden) in at least float32, and position (B,) int64, the real tokens so far.

Paper: Bozic et al. 2023, "Rethinking Attention: Exploring Shallow Feed-Forward Neural Networks as an Alternative to
Attention Layers in Transformers", arXiv 2311.10642 (the replacement of an attention layer without its residual; not
confirmed in released code: the masking of later tokens is from memory).
Differs from the paper: none is made for each head or together with the residual; inputs need not be filled up with
zeros, which is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.packed import PackedMixer, counted, only_real
from layersmith.mixer.shared.rope import token_positions


class TokenFFN(PackedMixer):
    """One hidden layer over all tokens.

    d_model     width of the residual stream
    d_hidden    hidden units
    length      L, the most tokens a sequence may have
    causal      False: every token reads the whole sequence, and no state is accepted
    """

    name = "token_ffn"

    def __init__(self, d_model: int, d_hidden: int, length: int, causal: bool = True):
        super().__init__()
        require_positive(TokenFFN, d_model=d_model, d_hidden=d_hidden, length=length)
        self.causal = self.streams = causal
        self.length = length
        self.up = nn.Parameter(torch.empty(length, d_model, d_hidden))
        self.up_bias = nn.Parameter(torch.zeros(d_hidden))
        self.down = nn.Parameter(torch.empty(length, d_hidden, d_model))
        self.down_bias = nn.Parameter(torch.zeros(length, d_model))
        # As nn.Linear over what a token in the middle of a sequence adds up.
        nn.init.uniform_(self.up, -((length * d_model) ** -0.5), (length * d_model) ** -0.5)
        nn.init.uniform_(self.down, -(d_hidden**-0.5), d_hidden**-0.5)

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        seen = None if state is None else state["position"]
        reached = counted(x, n_real) if seen is None else counted(x, n_real) + seen
        self._refuse_longer(x.shape[1] if seen is None and n_real is None else int(reached.max()))
        at = token_positions(x, None, seen).clamp(max=self.length - 1)  # only padding is ever moved by this
        terms = precise(_each(only_real(x, n_real), self.up, at))
        with full_precision(x):
            sums = terms.cumsum(1) if self.causal else terms.sum(1, keepdim=True).expand_as(terms)
            if state is not None:
                sums = sums + state["sum"][:, None]
            hidden = F.relu(sums + self.up_bias).to(x.dtype)
        y = _each(hidden, self.down, at) + F.embedding(at, self.down_bias)
        return y, {"sum": sums[:, -1], "position": reached} if self.causal else None

    def _refuse_longer(self, tokens: int) -> None:
        if tokens > self.length:
            raise ValueError(
                f"TokenFFN: a sequence of {tokens} tokens, but there is a map for each of length={self.length} places "
                f"and none beyond. Build it with a larger length, or cut the text."
            )


def _each(x: Tensor, maps: Tensor, at: Tensor) -> Tensor:
    """Token t of row b times the map of its place: x (B, T, I), maps (L, I, O), at (B or 1, T) -> (B, T, O)."""
    if at.shape[0] == 1:
        return torch.einsum("bti,tio->bto", x, maps[at[0]])
    return torch.einsum("bti,btio->bto", x, maps[at])
