"""AF-KAN: products of shifted activations on a learned grid, reduced to one number per input before a dense map.

    f_ik = combine(act(x_i - a_k), act(b_k - x_i)),   f~ = (f - min f) / (max f - min f) over the token's f
    r_i = p_i sum_k f~_ik,  p = softmax_i(sum_k v_k f~_ik / max(t, 1))      (reduce = "attention")
    r_i = sum_k v_k f~_ik                                                  (reduce = "linear")
    y = W act(LayerNorm(r))

Two such layers.
Shapes: x (..., D) -> f (..., D, K) -> r (..., D) -> h (..., d_hidden) -> y (..., D); a, b and v have K
numbers each, so that a layer holds hardly more than a linear map does. The softmax is over the inputs of one token.
With act ReLU, "quad1" is the feature of ReLU-KAN times (b - a)^4 / 16 (see `kan_basis.ActivationProduct`).

Paper: Ta & Tran 2025, "AF-KAN: Activation Function-Based Kolmogorov-Arnold Networks for Efficient Representation
Learning", arXiv 2503.06112. Confirmed in the authors' code (hoangthangta/All-KAN, af_kan): grid 5, order 3 on [0, 1],
SiLU, the combinations, softmax over inputs with temperature sqrt(D), layer norm, no bias.
Differs from the paper: their minimum and maximum run over the whole batch, so that tokens see each other; here they
run over one token, which is theirs when fed one token at a time. The bias of v is left out: neither softmax nor layer
norm lets it through. Their five other reductions are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import ACTIVATIONS
from layersmith.ffn.shared.kan_basis import COMBINATIONS, ActivationProduct
from layersmith.ffn.shared.kan_layer import require_activation

REDUCTIONS = ("attention", "linear")


class AFLayer(nn.Module):
    """One layer; arguments as in `AFKAN`."""

    def __init__(self, d_in: int, d_out: int, size: int, order: int, act: str, combine: str, reduce: str, low: float,
                 high: float):  # fmt: skip
        super().__init__()
        self.act = ACTIVATIONS[act]
        self.basis = ActivationProduct(size, low, high, order, act, combine, scaled=False)
        self.mix = nn.Parameter(torch.empty(size).uniform_(-(size**-0.5), size**-0.5))
        if reduce == "attention":
            self.temperature = nn.Parameter(torch.tensor(float(d_in) ** 0.5))
        self.norm = nn.LayerNorm(d_in)
        self.linear = nn.Linear(d_in, d_out, bias=False)

    def features(self, x: Tensor) -> Tensor:
        """(..., d_in, K): products, from 0 at the token's least to 1 at its greatest."""
        f = self.basis(x)
        least, most = f.amin((-2, -1), keepdim=True), f.amax((-2, -1), keepdim=True)
        return (f - least) / (most - least).clamp_min(1e-12)

    def reduced(self, x: Tensor) -> Tensor:
        """(..., d_in): one number per input, in at least 32 bits."""
        f = self.features(x)
        score = (f * self.mix).sum(-1)
        if not hasattr(self, "temperature"):
            return score
        return f.sum(-1) * (score / self.temperature.clamp(min=1.0)).softmax(-1)

    def hidden(self, x: Tensor) -> Tensor:
        """(..., d_in): what enters the dense map. Reduced inputs are close together, so they are normalised wide."""
        r = self.reduced(x)
        weight, bias = self.norm.weight.to(r.dtype), self.norm.bias.to(r.dtype)
        return self.act(F.layer_norm(r, r.shape[-1:], weight, bias, self.norm.eps)).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.hidden(x))


class AFKAN(FeedForward):
    """Two-layer AF-KAN.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    size                K, pairs of shifted activations
    order               length of a pair's interval in cells of the grid, less one; below `size`
    act                 the activation
    combine             "quad1", "quad2", "sum", "prod", "sum_prod", "cubic1" or "cubic2"
    reduce              "attention" or "linear"
    low, high           where the grid of intervals starts out
    """

    name = "af_kan"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        size: int = 8,
        order: int = 3,
        act: str = "silu",
        combine: str = "quad1",
        reduce: str = "attention",
        low: float = 0.0,
        high: float = 1.0,
    ):
        super().__init__()
        require_positive(AFKAN, d_model=d_model, d_hidden=d_hidden, size=size)
        require_activation(AFKAN, act=act)
        for argument, value, known in (("combine", combine, tuple(COMBINATIONS)), ("reduce", reduce, REDUCTIONS)):
            if value not in known:
                raise ValueError(f"AFKAN: {argument} must be one of {', '.join(known)}, not {value!r}.")
        self.up = AFLayer(d_model, d_hidden, size, order, act, combine=combine, reduce=reduce, low=low, high=high)
        self.down = AFLayer(d_hidden, d_model, size, order, act, combine=combine, reduce=reduce, low=low, high=high)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))
