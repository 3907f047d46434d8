"""GR-KAN: the feed-forward of the Kolmogorov-Arnold Transformer, two linear maps that each see a learned activation.

    y = W_2 F_2( W_1 F_1(x) + b_1 ) + b_2

F_1 and F_2 are group-wise rational functions (see `rational`), so W F(x) is a KAN layer whose edges share their
functions within a group up to a scale. F_1 starts as the identity and F_2 as GELU or another activation, so a
new GR-KAN is the MLP of that activation to within the error of the fit, and can take a trained MLP's weights.

Shapes: x (..., D) -> hidden (..., d_hidden) -> y (..., D).

Paper: Yang & Wang 2024, "Kolmogorov-Arnold Transformer", arXiv 2409.10594. Confirmed in the authors' code
(Adamdad/kat, Adamdad/rational_kat_cu): order of the parts, identity and GELU or Swish starts, 8 groups, m = 5, n = 4,
gain = 1 / E[F(z)^2] for standard normal z. Its gradients are added up as FlashKAT does (Raffel & Chen 2025, arXiv
2505.13813; see `kernels.rational`): in fast memory first, where a kernel takes the tensors.
Differs from the paper: the linear weights really have the variance gain / fan_in; the released training code
overwrites that with a standard deviation of 0.02.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.rational import Rational, activation_coefficients, mean_square


class GRKAN(FeedForward):
    """Feed-forward with learned rational activations.

    d_model, d_hidden   widths of the residual stream and of the hidden layer; multiples of `groups`
    groups              channel groups with a denominator of their own
    act                 the named activation that F_2 starts as
    m, n                degrees of numerator and denominator
    bias                add biases to both linear maps
    """

    name = "gr_kan"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        groups: int = 8,
        act: str = "gelu",
        m: int = 5,
        n: int = 4,
        bias: bool = True,
    ):
        super().__init__()
        require_positive(GRKAN, d_model=d_model, d_hidden=d_hidden, groups=groups, m=m, n=n)
        self.act_in = Rational(d_model, groups, "identity", m, n)
        self.up = nn.Linear(d_model, d_hidden, bias=bias)
        self.act_hidden = Rational(d_hidden, groups, act, m, n)
        self.down = nn.Linear(d_hidden, d_model, bias=bias)
        for init, linear in (("identity", self.up), (act, self.down)):
            square = mean_square(*activation_coefficients(init, m, n))
            nn.init.normal_(linear.weight, std=(square * linear.in_features) ** -0.5)
            if linear.bias is not None:
                nn.init.zeros_(linear.bias)

    @classmethod
    def from_mlp(cls, mlp: MLP, groups: int = 8, m: int = 5, n: int = 4) -> GRKAN:
        """The GR-KAN with a trained MLP's weights, equal to it up to the fit of its activation on [-8, 8]."""
        config = mlp.spec()
        part = cls(config["d_model"], config["d_hidden"], groups, config["act"], m=m, n=n, bias=config["bias"])
        part.to(mlp.up.weight)
        with torch.no_grad():
            part.up.load_state_dict(mlp.up.state_dict())
            part.down.load_state_dict(mlp.down.state_dict())
        return part

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.act_hidden(self.up(self.act_in(x))))
