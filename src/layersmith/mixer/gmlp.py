"""gMLP: a gated feed-forward whose gate is mixed over token positions by a learned matrix; no attention at all.

    u, v = halves of gelu(W_up x)
    y    = W_down (u * (W LN(v) + b))        W (N, N) over positions, the same for every channel; causal: lower triangle

With n_experts > 1 the channels of v are cut into as many chunks and chunk i is mixed by its own matrix W_i: more
weights at the same FLOPs, and no router. With toeplitz, W[t, s] depends on t - s alone.

It holds weights for `length` positions and refuses longer sequences (`shared/positions.py`).

Shapes: x (B, T, D) -> u, v (B, T, d_hidden) -> y (B, T, D), T <= length.
State: z (B, S, d_hidden), LN(v) of the tokens so far; real (B, S) bool once a mask has been given.

Papers: Liu et al. 2021, "Pay Attention to MLPs", arXiv 2105.08050 (gate, norm on v alone, b = 1 and W near 0 at the
start confirmed in copies of timm's layer); "Efficient Language Modeling with Sparse all-MLP" (n_experts; from
memory, not confirmed in code).
Differs from the papers: the tiny attention of aMLP is left out; a padding token counts as no position.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.positions import PositionMap


class GMLP(Mixer):
    """Spatial gating.

    d_model, d_hidden   width of the residual stream, and of u and of v
    length              the most tokens it can take
    causal              False: every token reads the whole sequence, as published, and no state is accepted
    n_experts           matrices over positions, each for its own chunk of channels
    toeplitz            matrices that know distances only

    Worked example. With one channel, W_up = (1, 1), W_down = 1 and one matrix of ones without bias, the norm makes v
    zero and its bias 2 makes it two: every token sums a two for each token up to itself.

    >>> import torch
    >>> part = GMLP(1, 1, length=3)
    >>> with torch.no_grad():
    ...     _ = part.up.weight.fill_(1.0), part.up.bias.zero_(), part.down.weight.fill_(1.0), part.down.bias.zero_()
    ...     _ = part.norm.bias.fill_(2.0), part.positions.weight.fill_(1.0), part.positions.bias.zero_()
    >>> part(torch.full((1, 3, 1), 100.0))[0].flatten().tolist()
    [200.0, 400.0, 600.0]
    """

    name = "gmlp"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        length: int,
        causal: bool = True,
        n_experts: int = 1,
        toeplitz: bool = False,
    ):
        super().__init__()
        require_positive(GMLP, d_model=d_model, d_hidden=d_hidden, length=length, n_experts=n_experts)
        if d_hidden % n_experts:
            raise ValueError(
                f"GMLP: n_experts={n_experts} does not divide d_hidden={d_hidden}: each expert mixes its own chunk of "
                f"the channels, all of one size."
            )
        self.causal = self.streams = causal
        self.longest = length
        self.up, self.down = nn.Linear(d_model, 2 * d_hidden), nn.Linear(d_hidden, d_model)
        self.norm = nn.LayerNorm(d_hidden)
        self.positions = PositionMap(length, causal, groups=n_experts, toeplitz=toeplitz)
        nn.init.uniform_(self.positions.weight, -1e-3 / length, 1e-3 / length)
        nn.init.ones_(self.positions.bias)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        gate, new = self.positions(self.norm(v), state, mask)
        return self.down(u * gate), new
