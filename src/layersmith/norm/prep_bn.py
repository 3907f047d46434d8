"""PRepBN: a LayerNorm that turns into a batch norm while training, which in use is one multiply-add per channel.

    y        = lambda * LN(x) + (1 - lambda) * RepBN(x)
    LN(x)    = w * (x - mean(x)) / sqrt(var(x) + eps) + b                          statistics of one token
    RepBN(x) = gamma * (x - mu) / sqrt(sigma^2 + eps) + beta + alpha * x           statistics of one channel

Shapes: x (..., D) -> y (..., D); w, b, gamma, beta, mu, sigma (D,); alpha, lambda scalars. lambda falls linearly from
1 to 0 over the first `steps` forward passes in training mode.

In evaluation mode mu and sigma^2 are the stored running statistics: token-wise. In training mode they are taken over
all tokens of the batch, so there information does cross tokens, as in every batch norm: in a causal model a token of a
training batch feels later ones through two numbers per channel. Once lambda is 0 the norm is
x -> (gamma / sqrt(sigma^2 + eps) + alpha) * x + const, and the fold `rep_bn` moves that into the next linear maps.

Paper: Guo et al. 2024, "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive
Re-parameterized Batch Normalization", arXiv 2405.11582. Confirmed in the authors' code (xinghaochen/SLAB): both
formulas, alpha starting at 1 (in their language model alpha, gamma and beta at 0), the linear schedule, the fold.
Differs from the paper: while lambda > 0, evaluation uses the mixture, not RepBN alone; no warm-up before the schedule,
which a larger `steps` replaces; padding is not left out of the statistics, since a norm is not told about it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Norm, require_positive


class PRepBN(Norm):
    """y = lambda LN(x) + (1 - lambda) RepBN(x); token-wise in evaluation mode, batch statistics in training mode.

    d_model    width of the residual stream
    steps      forward passes in training mode until lambda is 0; 0 = RepBN alone, without a LayerNorm
    eps        added to both variances; more than 0
    momentum   weight of a new batch in the running statistics, in (0, 1]
    """

    name = "prep_bn"
    mean: Tensor
    var: Tensor
    step: Tensor

    def __init__(self, d_model: int, steps: int = 0, eps: float = 1e-5, momentum: float = 0.1):
        super().__init__()
        require_positive(PRepBN, d_model=d_model)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise ValueError(f"PRepBN: steps must be an integer of at least 0, not {steps!r}.")
        if not eps > 0:
            raise ValueError(f"PRepBN: eps must be more than 0, not {eps!r}: a channel may be constant over a batch.")
        if not 0 < momentum <= 1:
            raise ValueError(f"PRepBN: momentum must be in (0, 1], not {momentum!r}.")
        self.steps, self.eps, self.momentum = steps, eps, momentum
        self.layer_norm = nn.LayerNorm(d_model, eps=eps) if steps else None
        self.alpha = nn.Parameter(torch.ones(()))
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))
        self.register_buffer("mean", torch.zeros(d_model))
        self.register_buffer("var", torch.ones(d_model))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        rep = self._batch_norm(x) + self.alpha * x
        if self.layer_norm is None:
            return rep.to(x.dtype)
        if self.training:
            self.step.add_(1)
        share = (self.steps - self.step).clamp_min(0).to(x.dtype) / self.steps
        return (share * self.layer_norm(x) + (1 - share) * rep).to(x.dtype)

    def _batch_norm(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        # One token has no variance, and none has no mean: such a batch is normalised by what was learned so far.
        training = self.training and len(tokens) > 1
        y = F.batch_norm(tokens, self.mean, self.var, self.weight, self.bias, training, self.momentum, self.eps)
        return y.reshape(x.shape)

    @property
    def finished(self) -> bool:
        """Whether the norm has become RepBN alone (lambda = 0)."""
        return int(self.step) >= self.steps

    @torch.no_grad()
    def as_affine(self) -> tuple[Tensor, Tensor]:
        """(D,) factor and (D,) constant of RepBN in evaluation mode, in float64: RepBN(x) = factor * x + constant."""
        scale = self.weight.double() / (self.var.double() + self.eps).sqrt()
        return scale + self.alpha.double(), self.bias.double() - scale * self.mean.double()
