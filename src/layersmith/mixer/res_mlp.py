"""ResMLP: one matrix over token positions, the same for every channel, between two diagonal maps of channels.

    y = s * (A (alpha * x + beta) + b)        A (N, N), b (N,) over positions; alpha, beta, s (D,) over channels

The affine map alpha, beta stands where other blocks have a norm; s is small at the start (LayerScale). Because A is the
same for every channel, alpha can be folded into s and beta into b once it is trained.

It holds weights for `length` positions and refuses longer sequences (`shared/positions.py`). As published it is not
causal; causal, A is a lower triangle.

Shapes: x (B, T, D) -> y (B, T, D), T <= length.
State: z (B, S, D), alpha * x + beta of the tokens so far; real (B, S) bool once a mask has been given.

Paper: Touvron et al. 2021, "ResMLP: Feedforward networks for image classification with data-efficient training", arXiv
2105.03404 (the half of its block that mixes tokens; confirmed in copies of timm's ResBlock, where s starts at 1e-4).
Differs from the paper: the causal form.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.positions import PositionMap


class ResMLP(Mixer):
    """A linear map over positions.

    d_model      width of the residual stream
    length       the most tokens it can take
    causal       False: every token reads the whole sequence, as published, and no state is accepted
    scale_init   what s starts at: smaller in deep models (from memory: 0.1 up to 18 layers, 1e-5 at 24, 1e-6 beyond)

    Worked example. A causal matrix of ones adds up the tokens so far:

    >>> part = ResMLP(1, length=4, scale_init=1.0)
    >>> _ = torch.nn.init.ones_(part.positions.weight)
    >>> part(torch.tensor([[[1.0], [2.0], [4.0]]]))[0].flatten().tolist()
    [1.0, 3.0, 7.0]
    """

    name = "res_mlp"

    def __init__(self, d_model: int, length: int, causal: bool = True, scale_init: float = 0.1):
        super().__init__()
        require_positive(ResMLP, d_model=d_model, length=length)
        self.causal = self.streams = causal
        self.longest = length
        self.alpha, self.beta = nn.Parameter(torch.ones(d_model)), nn.Parameter(torch.zeros(d_model))
        self.scale = nn.Parameter(torch.full((d_model,), float(scale_init)))
        self.positions = PositionMap(length, causal)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        y, new = self.positions(self.alpha * x + self.beta, state, mask)
        return (self.scale * y).to(x.dtype), new
