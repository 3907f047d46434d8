"""Minimal attention: one matrix scores inputs with inputs, and the inputs themselves are what is averaged.

    s_ij = scale x_i^T A_h x_j          y_i = sum_h U_h sum_j softmax_j(s_ij) x_j

A_h stands for W_q^T W_k of a head and U_h for its W_o W_v, so any attention without RoPE and query-key norm can be
written so (with head_dim^-0.5 as the scale). Two settings take more away:

    symmetric    A_h = A_h^T, of which one triangle is stored; nearest to a given A is (A + A^T) / 2
    values=False there is no U, y_i is the mean over heads of sum_j softmax_j(s_ij) x_j

Shapes: x (B, T, D) -> x A (B, H, T, D) -> y (B, T, D); A (H, D, D), or its triangles (H, D (D + 1) / 2).
State: k (B, 1, S, D), the inputs so far; real (B, S) bool once a mask has been given.

Paper: Bermeitinger et al. 2024, "Reducing the Transformer Architecture to a Minimum", arXiv 2410.13732. Confirmed in
its abstract: query and key matrices collapsed into one, value and projection matrices likewise or left out, symmetric
similarity of half the parameters.
Differs from the paper: several heads, whose outputs are added, or averaged without U; the symmetric matrix may have
negative eigenvalues. That the feed-forward goes too is said by the model, not by this part.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import State
from layersmith.mixer.shared.heads import split_heads
from layersmith.mixer.shared.key_values import append, remember, shortened
from layersmith.mixer.softmax import SoftmaxAttention


class HeadMean(nn.Module):
    """The mean over heads: (..., H * D) -> (..., D)."""

    def __init__(self, d_model: int):
        super().__init__()
        self.d_model = d_model

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.d_model)).mean(-2)


class MinimalAttention(SoftmaxAttention):
    """Softmax attention that scores and averages the inputs themselves, with one matrix in place of two.

    d_model, n_heads, causal    as in `SoftmaxAttention`
    symmetric                   store one triangle of each A
    values                      have the matrices U
    scale                       factor on the scores; None = d_model^-0.5
    """

    name = "minimal_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int = 1,
        symmetric: bool = False,
        values: bool = True,
        causal: bool = True,
        scale: float | None = None,
    ):
        super().__init__(d_model, n_heads, n_kv_heads=1, head_dim=d_model, causal=causal, scale=scale)
        self.d_model = d_model
        self.k, self.v = nn.Identity(), nn.Identity()  # type: ignore[assignment]
        if not values:
            self.o = HeadMean(d_model)  # type: ignore[assignment]
        self.triangle: nn.Parameter | None = None
        if symmetric:
            rows, columns = torch.tril_indices(d_model, d_model)
            self.triangle = nn.Parameter(self.q.weight.detach().view(n_heads, d_model, d_model)[:, rows, columns])
            del self.q

    def similarity(self) -> Tensor:
        """A (H, D, D): scores are scale x_i^T A x_j."""
        if self.triangle is None:
            return self.q.weight.view(-1, self.d_model, self.d_model).mT
        rows, columns = torch.tril_indices(self.d_model, self.d_model, device=self.triangle.device)
        full = self.triangle.new_zeros(len(self.triangle), self.d_model, self.d_model)
        full[:, rows, columns] = self.triangle
        full[:, columns, rows] = self.triangle
        return full

    def project(self, x: Tensor, mask: Tensor | None, seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        q = self.q(x) if self.triangle is None else x @ self.similarity().movedim(0, 1).flatten(1)
        inputs = split_heads(x, self.d_model).to(q.dtype)
        return split_heads(q, self.d_model), inputs, inputs

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        if not self.causal:
            return self.attend(q, k, v, mask), None
        k, v, real = append(_both(state), k, v, mask)
        return self.attend(q, k, v, real), _one(remember(k, v, real))

    @staticmethod
    def without_last(state: State, seen: int, tokens: int) -> State | None:
        return _one(shortened({**state, "v": state["k"]}, seen, tokens))


def _both(state: State | None) -> State | None:
    return None if state is None else {**state, "v": state["k"]}


def _one(state: State | None) -> State | None:
    return None if state is None else {name: tensor for name, tensor in state.items() if name != "v"}
