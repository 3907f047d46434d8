"""Tensor attention: a token takes a weighted mean over pairs of tokens, so that it can ask about two at once.

    y_t = W_o concat_h sum_{i, j} A_tij (v_i * v'_j)        A_t = softmax_{i, j} scale * sum_c q_tc k_ic k'_jc

over the pairs (i, j) of tokens that t may see, * element by element. With k' = v' = 1 it is softmax attention. Pairs
make it T^3 work; two ways out of that:

    window    i and j are among the last `window` tokens
    degree g  exp is its power series up to degree g, an even number. Its terms factorise into one of q, one of k and
              one of k' (`shared/monomials.py`), and so sums over i and over j are kept apart:
              y_t = sum_m w_m q_t^m (sum_i k_i^m v_i) * (sum_j k'_j^m v'_j) / the same with v = v' = 1.
              Work and memory grow with T alone, and the state has a constant size. Near the exponential for scores of
              sizes well below g / 2; far away it is another attention, which pays regard to large scores of either
              sign.

Shapes: x (B, T, D) -> q (B, H, T, head_dim); k and k', v and v' side by side (B, 2 H_kv, T, head_dim) -> y (B, T, D).
State: k, v (B, 2 H_kv, S, head_dim), S at most window - 1, and real (B, S) once a mask has been given; with degree:
first, second (B, H_kv, M, head_dim + 1) in at least float32, M the monomials.

Paper: Alman & Song 2023, "How to Capture Higher-order Correlations? Generalizing Matrix Softmax Attention to Kronecker
Computation". One softmax over all pairs and values multiplied element by element are confirmed in its abstract. Not
confirmed, from memory: the division of scores by the width of a head, and what the polynomial method comes to; here it
is the power series, for any size of entries.
Differs from the paper: heads, causality and the window are ours; no rotation of queries and keys, since a product of
three does not depend on distances alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.key_values import append, readable, remember
from layersmith.mixer.shared.monomials import monomial_table, monomials

#: More monomials than this are a mistake: they grow as head_dim to the power of the degree.
MOST_MONOMIALS = 10_000


class TensorAttention(HeadMixer):
    """Attention over pairs of tokens.

    d_model, n_heads, n_kv_heads, head_dim, causal, bias, out_bias     as in `SoftmaxAttention`
    window    how many tokens a token sees, itself included, back and (not causal) ahead; None = all; not with degree
    degree    degree of the power series, even; None: the exponential itself
    scale     factor on the scores; None = 1 / head_dim
    chunk     tokens computed together; changes speed and memory, not values
    """

    name = "tensor_attention"

    variables: Tensor

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        window: int | None = None,
        degree: int | None = None,
        scale: float | None = None,
        bias: bool = False,
        out_bias: bool = False,
        chunk: int = 16,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, causal=causal, bias=bias, out_bias=out_bias)
        require_positive(TensorAttention, chunk=chunk)
        self.window, self.degree, self.chunk = window, degree, chunk
        self.scale = 1 / self.head_dim if scale is None else scale
        self.k = nn.Linear(d_model, 2 * self.n_kv_heads * self.head_dim, bias=bias)  # k, and behind it k'
        self.v = nn.Linear(d_model, 2 * self.n_kv_heads * self.head_dim, bias=bias)
        if window is not None:
            require_positive(TensorAttention, window=window)
        if degree is None:
            return
        if window is not None:
            raise ValueError("TensorAttention: window is for degree=None alone: sums over all tokens forget none.")
        require_positive(TensorAttention, degree=degree)
        if degree % 2:
            raise ValueError(f"TensorAttention: degree={degree} must be even, or weights might be negative.")
        count = math.comb(self.head_dim + degree, degree)
        if count > MOST_MONOMIALS:
            raise ValueError(
                f"TensorAttention: degree={degree} at head_dim={self.head_dim} makes {count} monomials. Use a smaller "
                f"degree or more heads."
            )
        variables, self.coefficients = monomial_table(self.head_dim, degree, self.scale)
        self.register_buffer("variables", variables)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        dtype = v.dtype
        if q.shape[2] == 0:
            return q, state
        with full_precision(q):
            if self.degree is not None:
                y, new = self._by_sums(precise(q), precise(k), precise(v), state, mask)
            elif self.causal:
                k, v, real = append(state, k, v, mask)
                y, new = self._by_pairs(precise(q), precise(k), precise(v), real), remember(k, v, real, self.window)
            else:
                y, new = self._by_pairs(precise(q), precise(k), precise(v), mask), None
        return y.to(dtype), new

    def _by_pairs(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """The last T of S tokens over the pairs they may see, `chunk` of them at a time."""
        tokens, slots, parts = q.shape[2], k.shape[2], []
        visible, triangle = readable(q, k, real, self.window, self.causal)
        if visible is None:
            visible = torch.ones(1, 1, tokens, slots, dtype=torch.bool, device=q.device)
            visible = visible.tril() if triangle else visible  # a triangle comes without a state: T = S
        reach = slots if self.window is None or real is not None else self.window - 1  # places, where all are real
        for start in range(0, tokens, self.chunk):
            stop = min(start + self.chunk, tokens)
            behind = slots - tokens
            near = slice(max(0, behind + start - reach), behind + stop + (0 if self.causal else reach))
            seen = visible[:, :, start:stop, near]
            parts.append(self._pairs(q[:, :, start:stop], k[:, :, near], v[:, :, near], seen))
        return torch.cat(parts, dim=2)

    def _pairs(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """Attention of q (B, H, C, .) over all pairs of these keys, as far as seen (B or 1, 1, C, S)."""
        (k_1, k_2), (v_1, v_2) = (part.unflatten(1, (2, self.n_kv_heads, 1)).unbind(1) for part in (k, v))
        q = q.unflatten(1, (self.n_kv_heads, -1))  # (B, H_kv, G, C, .)
        asked = q[..., :, None, :] * k_1[..., None, :, :] * self.scale  # (B, H_kv, G, C, S, .)
        scores = asked @ k_2.mT[..., None, :, :]  # (B, H_kv, G, C, S, S)
        pairs = seen[:, :, None, :, :, None] & seen[:, :, None, :, None, :]
        weights = scores.masked_fill(~pairs, float("-inf")).flatten(-2).softmax(-1).view_as(scores)
        return ((weights @ v_2[..., None, :, :]) * v_1[..., None, :, :]).sum(-2).flatten(1, 2)

    def _by_sums(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        q = monomials(q, self.variables) * q.new_tensor(self.coefficients)
        q = q.unflatten(1, (self.n_kv_heads, -1))  # (B, H_kv, G, T, M)
        k = monomials(k, self.variables)
        if mask is not None:
            k = k * mask[:, None, :, None]
        v = F.pad(v, (0, 1), value=1.0)  # a column of ones sums the normaliser
        held = k.new_zeros(*k.shape[:2], k.shape[3], v.shape[3])
        if state is not None:
            held = torch.cat((state["first"], state["second"]), dim=1)
        if not self.causal:
            y = self._read(q, (k.mT @ v)[:, :, None])
            return y[..., :-1] / y[..., -1:].clamp_min(torch.finfo(y.dtype).tiny), None
        parts = []
        for some_q, some_k, some_v in zip(*(t.split(self.chunk, dim=-2) for t in (q, k, v)), strict=True):
            sums = held[:, :, None] + (some_k[..., :, None] * some_v[..., None, :]).cumsum(2)  # (B, 2 H_kv, C, M, .)
            parts.append(self._read(some_q, sums))
            held = sums[:, :, -1]
        y = torch.cat(parts, dim=2)
        first, second = held.chunk(2, dim=1)
        y = y[..., :-1] / y[..., -1:].clamp_min(torch.finfo(y.dtype).tiny)  # 0 where nothing may be seen
        return y, {"first": first, "second": second}

    def _read(self, q: Tensor, sums: Tensor) -> Tensor:
        """sum_m q^m first_m * second_m: q (B, H_kv, G, C, M), sums (B, 2 H_kv, C or 1, M, .) -> (B, H, C, .)."""
        first, second = sums.chunk(2, dim=1)
        return (q[..., None, :] @ (first * second)[:, :, None]).squeeze(-2).flatten(1, 2)
