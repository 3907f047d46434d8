"""Units that are one-dimensional Gaussian mixtures with one component for each input: they output a log density.

    h_j = log sum over k of  pi_jk N(x_k; mu_jk, sigma_jk^2),      y = W h + b

    pi_j = softmax(w_j),   sigma = exp(s)

Each component judges its own input: h_j is large when some input with a large share pi_jk is near its mean. As a
function of one shared value x_1 = ... = x_D = t, exp(h_j) is a probability density.

Shapes: x (..., D) -> (..., d_hidden, D) log densities -> h (..., d_hidden) -> y (..., D); mu, s, w (d_hidden, D),
W (D, d_hidden). Three parameters and one exponential for every input of every unit: the reported FLOPs count the matrix
product W h alone, and the layer is far slower than they suggest. Units are computed in groups to bound the memory.

Paper: Ali 2025, "uGMM-NN: Univariate Gaussian Mixture Model Neural Network", arXiv 2509.07569. Confirmed in the
author's code (zakeria/uGMM, ugmm_layer.py): the unit, softmax shares, log standard deviations, starting values of mu.
Differs from the paper: a linear map follows, because a feed-forward's output is signed and unbounded while the paper
stacks such layers up to class scores; standard deviations start in [0.5, 1.5) (theirs in (0, 1), where the smallest
ones make densities of unbounded height); no dropout of components.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive

#: Values held at once by a group of units: 64 MB in single precision.
GROUP = 2**24


class UGMM(FeedForward):
    """Feed-forward of Gaussian-mixture units.

    d_model, d_hidden   widths of the residual stream and of the layer of units
    """

    name = "ugmm"

    def __init__(self, d_model: int, d_hidden: int):
        super().__init__()
        require_positive(UGMM, d_model=d_model, d_hidden=d_hidden)
        self.mean = nn.Parameter(torch.randn(d_hidden, d_model))
        self.log_std = nn.Parameter(torch.log(0.5 + torch.rand(d_hidden, d_model)))
        self.share = nn.Parameter(torch.rand(d_hidden, d_model))
        self.down = nn.Linear(d_hidden, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.log_density(x).to(x.dtype))

    def log_density(self, x: Tensor) -> Tensor:
        """h (..., d_hidden), in single precision at least."""
        wide = torch.promote_types(x.dtype, torch.float32)
        log_share = self.share.to(wide).log_softmax(-1) - self.log_std.to(wide) - math.log(2 * math.pi) / 2
        mean, inverse = self.mean.to(wide), (-self.log_std.to(wide)).exp()
        units = max(1, GROUP // max(1, x.numel()))
        groups = zip(mean.split(units), inverse.split(units), log_share.split(units), strict=True)
        x = x.to(wide).unsqueeze(-2)
        return torch.cat([(c - ((x - m) * i).square() / 2).logsumexp(-1) for m, i, c in groups], dim=-1)
