"""Pattention: attention of each token to learned parameter tokens, whose number can grow without changing the outputs.

    a_i = x . k_i,   s = theta(a),   y = sum over i of s_i v_i

    theta "l2_norm_gelu":  s = gelu(tau a / ||a||)          "gelu_l2_norm":  s = tau gelu(a) / ||gelu(a)||
          "softmax":       s = tau^2 softmax(a)             with tau = sqrt(n) for n parameter tokens

A key of zeros scores zero, adds nothing to ||a|| and gets gelu(0) = 0, so `grown` appends such keys and leaves every
output as it was, provided that tau keeps its old value.

Shapes: x (..., D) -> a, s (..., n_tokens) -> y (..., D); keys and values (n_tokens, D).

Paper: Wang et al. 2024, "TokenFormer: Rethinking Transformer Scaling with Tokenized Model Parameters",
arXiv 2410.23168. Confirmed in the authors' code (Haiyang-W/TokenFormer, megatron/model/tokenformer.py): the three
thetas, their scales, "l2_norm_gelu" in all released configurations, and that the feed-forward is one Pattention.
Differs from the paper: tau is part of the configuration, so that a grown part can be built again (their code always
takes the square root of the present number, which changes the outputs of a grown model); scores all zero give zero
where theirs give NaN.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive

THETAS = ("l2_norm_gelu", "gelu_l2_norm", "softmax")


class Pattention(FeedForward):
    """Attention to parameter tokens.

    d_model    width of the residual stream
    n_tokens   number of parameter tokens
    theta      "l2_norm_gelu", "gelu_l2_norm" or "softmax"
    tau        scale of the scores; None: sqrt(n_tokens)
    """

    name = "pattention"

    def __init__(self, d_model: int, n_tokens: int, theta: str = "l2_norm_gelu", tau: float | None = None):
        super().__init__()
        require_positive(Pattention, d_model=d_model, n_tokens=n_tokens)
        if theta not in THETAS:
            raise ValueError(f"Pattention: theta must be one of {', '.join(THETAS)}, not {theta!r}.")
        if tau is not None and not tau > 0:
            raise ValueError(f"Pattention: tau must be positive, or None for sqrt(n_tokens), not {tau!r}.")
        self.theta = theta
        self.tau = n_tokens**0.5 if tau is None else tau
        self.keys = nn.Parameter(torch.empty(n_tokens, d_model))
        self.values = nn.Parameter(torch.empty(n_tokens, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        n_tokens, d_model = self.keys.shape
        nn.init.normal_(self.keys, std=d_model**-0.5)
        nn.init.normal_(self.values, std=n_tokens**-0.5)

    def grown(self, n_tokens: int) -> Pattention:
        """A new part with n_tokens parameter tokens, the old ones first, and the same outputs."""
        old, d_model = self.keys.shape
        if self.theta == "softmax":
            raise ValueError("Pattention: theta='softmax' cannot grow, because a score of zero takes a share there.")
        if n_tokens < old:
            raise ValueError(f"Pattention: n_tokens={n_tokens} is fewer than the {old} there are; it only grows.")
        part = Pattention(d_model, n_tokens, self.theta, self.tau).to(self.keys)
        with torch.no_grad():
            part.keys.zero_()
            part.keys[:old] = self.keys
            part.values[:old] = self.values
        return part

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self._scores(F.linear(x, self.keys)), self.values.T)

    def _scores(self, a: Tensor) -> Tensor:
        wide = a.to(torch.promote_types(a.dtype, torch.float32))  # squares of many scores are summed
        if self.theta == "softmax":
            s = self.tau**2 * wide.softmax(-1)
        elif self.theta == "gelu_l2_norm":
            s = self.tau * F.normalize(F.gelu(wide), dim=-1)
        else:
            s = F.gelu(self.tau * F.normalize(wide, dim=-1))
        return s.to(a.dtype)
