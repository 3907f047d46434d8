"""A linear map that learns how much noise each weight bears, and drops those that bear any amount.

    w ~ N(theta, sigma^2),    alpha = sigma^2 / theta^2
    training   y = theta x + b + sqrt(sigma^2 x^2) * N(0, 1)             the noise of an output, not of every weight
               loss += kl_weight * KL
               -KL = sum of  0.63576 s(1.87320 + 1.48695 log alpha) - log(1 + 1 / alpha) / 2 - 0.63576
    in use     y = (theta * M) x + b,     M = 1 where log alpha <= threshold

with s the logistic function. KL is that of the noisy weights from a prior uniform in log |w|: the larger alpha, the
smaller it is, so weights that the task does not need are given up to noise. With kl_weight = 1 / N for N training
examples the loss is the (negative, mean) evidence lower bound.

Shapes: x (..., d_in) -> y (..., d_out); theta and log sigma^2 (d_out, d_in). In use its zeros make nothing faster; in
training it does two products instead of one, with twice the parameters.

Paper: arXiv 2001.07493, "Variational Dropout Sparsification for Particle Identification speed-up", which uses the
sparse variational dropout of Molchanov et al. 2017, arXiv 1701.05369. Confirmed in the released code of both: noise,
constants of KL (the tests hold them to the exact KL within 0.012), threshold 3 and the start log sigma^2 = -10; in that
of the first also log alpha held between -10 and 10.
Differs from the paper: theta starts as in any linear map (there of deviation 0.02).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Linear, report_aux, require_positive

#: Of the approximation of KL.
K1, K2, K3 = 0.63576, 1.87320, 1.48695
#: Between which log alpha is held, and what keeps logarithms and roots from 0.
BOUND, TINY = 10.0, 1e-8


class VariationalLinear(Linear):
    """y = theta x + b with learned noise while it trains, without the weights that are all noise in use.

    d_in, d_out   widths of input and output
    kl_weight     of KL in the loss, 0 or more
    threshold     the largest log alpha of a weight that is kept
    bias          add b
    """

    name = "variational"

    def __init__(self, d_in: int, d_out: int, kl_weight: float = 1e-5, threshold: float = 3.0, bias: bool = False):
        super().__init__()
        require_positive(VariationalLinear, d_in=d_in, d_out=d_out)
        if not kl_weight >= 0:
            raise ValueError(f"VariationalLinear: kl_weight must be 0 or more, not {kl_weight!r}.")
        self.kl_weight, self.threshold = kl_weight, threshold
        linear = nn.Linear(d_in, d_out, bias=bias)
        self.theta, self.bias = linear.weight, linear.bias
        self.log_sigma2 = nn.Parameter(torch.full((d_out, d_in), -10.0))

    def log_alpha(self) -> Tensor:
        """(d_out, d_in)."""
        return (self.log_sigma2 - (self.theta.square() + TINY).log()).clamp(-BOUND, BOUND)

    def mask(self) -> Tensor:
        """bool (d_out, d_in): the weights that are kept."""
        return self.log_alpha() <= self.threshold

    def dense_weight(self) -> Tensor:
        """The matrix this map multiplies by in use, (d_out, d_in)."""
        return self.theta * self.mask()

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.linear(x, self.dense_weight(), self.bias)
        report_aux(self, "kl", self.kl_weight * divergence(self.log_alpha()).sum())
        # sigma^2 from the bounded alpha, so that noise and KL speak of the same one.
        variance = F.linear(x.square(), self.log_alpha().exp() * self.theta.square())
        mean = F.linear(x, self.theta, self.bias)
        return mean + (variance + TINY).sqrt() * torch.randn_like(mean)


def divergence(log_alpha: Tensor) -> Tensor:
    """KL of each weight, of the shape of log_alpha: at least 0, up to the error of the approximation."""
    return K1 - K1 * torch.sigmoid(K2 + K3 * log_alpha) + F.softplus(-log_alpha) / 2
