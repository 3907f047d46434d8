"""S-KAN: every input of a KAN layer mixes a pool of bases by learned weights; the best is kept in the end.

    phi_oi(x) = w_oi act(x) + sum_m alpha_im sum_k c_oimk B^m_k(x),   y_o = bias_o + sum_i phi_oi(x_i)

Three phases: train all of it; `select(x, keep)` leaves only the best `keep` bases of each input on (the others
count nothing and learn nothing); when one is left, `prune()` gives the part that stores one basis per input.
The best basis of an input is the one in whose span its functions lie best, and the kept ones are refitted to them.

Shapes: x (..., D) -> h (..., d_hidden) -> y (..., D), two layers; alpha (d_in, M), c (d_out, d_in, M, K).
With alpha one-hot it is the KAN of that basis. A pruned part multiplies what a KAN of one basis does.

Paper: Yang et al. 2024, "Activation Space Selectable Kolmogorov-Arnold Networks", arXiv 2408.08338. Confirmed in the
abstract and public summaries: a selectable pool (B-splines, Chebyshev polynomials, wavelets), weighted combination,
the phases of full training, selective training and pruning. Not confirmed (no released code found): where exactly
the weights sit, whether they are normalised, and the rule that picks among them.
Differs from the paper: weights per layer and input, not normalised, at first 1 / M; Gaussians in place of wavelets.
The best are not those of largest weight: bases overlap, and training divides a function among them in shares that say
little about which of them could do it alone (a bump that is one B-spline ends up mostly in polynomials).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.shared.activations import ACTIVATIONS
from layersmith.ffn.shared.kan_basis import make_basis
from layersmith.ffn.shared.kan_layer import require_activation


class SelectLayer(nn.Module):
    """One layer: `pool` names M bases of K functions; `pruned` stores one basis for each input."""

    def __init__(self, d_in: int, d_out: int, pool: list[str], size: int, low: float, high: float, base: str,
                 pruned: bool):  # fmt: skip
        super().__init__()
        self.bases = nn.ModuleList(make_basis(name, size, low, high) for name in pool)
        self.act, self.pruned = ACTIVATIONS[base], pruned
        self.base = nn.Linear(d_in, d_out)
        stored = 1 if pruned else len(pool)
        self.alpha = nn.Parameter(torch.full((d_in, stored), 1 / stored))
        self.coefficients = nn.Parameter(torch.randn(d_out, d_in, stored, size) * (0.1 * d_in**-0.5))
        #: (d_in, M), 1 where a basis is on.
        self.on: Tensor
        on = torch.zeros(d_in, len(pool))
        on[:, slice(0, 1) if pruned else slice(None)] = 1
        self.register_buffer("on", on)

    def basis(self, x: Tensor) -> Tensor:
        """(..., d_in, M, K): the values of every basis of the pool."""
        return torch.stack([basis(x) for basis in self.bases], -2)

    def features(self, x: Tensor) -> Tensor:
        """(..., d_in, M, K), or (..., d_in, 1, K) when pruned: bases that are on, times their weights."""
        values = self.basis(x) * self.on[..., None]
        if self.pruned:
            values = values.sum(-2, keepdim=True)
        return (values * self.alpha[..., None]).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.act(x)) + F.linear(self.features(x).flatten(-3), self.coefficients.flatten(1))

    @torch.no_grad()
    def select(self, x: Tensor, keep: int) -> None:
        """Leave `keep` bases of each input on, refitted to the functions that all of them made; x is (N, d_in)."""
        n_bases, size = self.coefficients.shape[2:]
        f = self.basis(x).flatten(-2).double()  # (N, d_in, P), P = M K
        mean = f.mean(0)
        covariance = torch.einsum("nip,niq->ipq", f - mean, f - mean) / len(x)
        edges = (self.coefficients * (self.alpha * self.on)[..., None]).flatten(2).double()  # (d_out, d_in, P)
        spread = torch.einsum("oip,oiq->ipq", edges, edges)
        # The variance of c . f that a least-squares fit by some columns explains is c^T E c with E as below.
        explained = []
        for block in torch.arange(n_bases * size).split(size):
            rows = covariance[:, block]
            inverse = torch.linalg.pinv(rows[:, :, block], hermitian=True, rtol=1e-12)
            explained.append((spread * (rows.mT @ inverse @ rows)).sum((1, 2)))
        kept = torch.stack(explained, -1).topk(keep, dim=-1).indices  # (d_in, keep)
        columns = (kept[..., None] * size + torch.arange(size, device=kept.device)).flatten(1)
        rows = covariance.take_along_dim(columns[..., None], 1)
        inverse = torch.linalg.pinv(rows.take_along_dim(columns[:, None], 2), hermitian=True, rtol=1e-12)
        fitted = torch.einsum("isp,oip->ois", inverse @ rows, edges)
        missing = torch.einsum("oip,ip->o", edges, mean)
        missing -= torch.einsum("ois,is->o", fitted, mean.take_along_dim(columns, 1))
        self.base.bias.add_(missing)
        new = torch.zeros_like(edges).scatter_(2, columns.expand(len(edges), -1, -1), fitted)
        self.coefficients.copy_(new.view_as(self.coefficients))
        self.alpha.fill_(1.0)
        self.on.zero_().scatter_(-1, kept, 1.0)


class SelectKAN(FeedForward):
    """Two-layer S-KAN.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    pool                names of the bases: "b_spline", "chebyshev", "fourier", "rbf", "relu"
    size                K, functions of each basis; even with "fourier", at least 4 with "b_spline" and "relu"
    low, high           the interval that the bases cover
    base_in, base       activations of the base terms of the first and the second layer
    pruned              store one basis per input; which one is in the state dict
    """

    name = "select_kan"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        pool: list[str] | tuple[str, ...] = ("b_spline", "chebyshev", "fourier"),
        size: int = 6,
        low: float = -3.0,
        high: float = 3.0,
        base_in: str = "silu",
        base: str = "silu",
        pruned: bool = False,
    ):
        super().__init__()
        require_positive(SelectKAN, d_model=d_model, d_hidden=d_hidden, size=size)
        require_activation(SelectKAN, base_in=base_in, base=base)
        names = list(pool)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"SelectKAN: pool={names!r} must name at least one basis, and none twice.")
        self.up = SelectLayer(d_model, d_hidden, names, size, low=low, high=high, base=base_in, pruned=pruned)
        self.down = SelectLayer(d_hidden, d_model, names, size, low=low, high=high, base=base, pruned=pruned)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))

    @torch.no_grad()
    def select(self, x: Tensor, keep: int = 1) -> None:
        """Second phase: leave the `keep` best bases of each input on, judged and refitted on tokens x (..., D)."""
        if self.up.pruned or not 1 <= keep <= len(self.up.bases):
            raise ValueError(f"SelectKAN: keep={keep} of {len(self.up.bases)} bases, in a part that is not pruned yet.")
        tokens = x.reshape(-1, x.shape[-1])
        if len(tokens) == 0:
            raise ValueError("SelectKAN: x holds no tokens to judge the bases on.")
        self.up.select(tokens, keep)
        self.down.select(self.up(tokens), keep)

    @torch.no_grad()
    def prune(self) -> SelectKAN:
        """Third phase: the equal part that stores only the one basis that is on for each input."""
        if self.up.pruned or any((layer.on.sum(-1) != 1).any() for layer in (self.up, self.down)):
            raise ValueError("SelectKAN: prune a part in which select(x, keep=1) has left one basis for each input.")
        config = {k: v for k, v in self.spec().items() if k != "name"}
        part = SelectKAN(**{**config, "pruned": True}).to(self.up.alpha)
        for small, large in ((part.up, self.up), (part.down, self.down)):
            chosen = large.on.argmax(-1)
            inputs = torch.arange(len(chosen), device=chosen.device)
            small.on.copy_(large.on)
            small.base.load_state_dict(large.base.state_dict())
            small.alpha.copy_(large.alpha[inputs, chosen, None])
            small.coefficients.copy_(large.coefficients[:, inputs, chosen, None])
            small.bases.load_state_dict(large.bases.state_dict())
        return part
