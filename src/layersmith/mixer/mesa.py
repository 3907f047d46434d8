"""Mesa layer: every token reads from the past through the ridge regression of values on keys, solved exactly.

    y_t = W_o concat_h  (V_t^T K_t) (K_t^T K_t + lam I)^{-1} q_t

with the rows k_s, v_s of all real s <= t (not causal: of all real tokens) in K_t and V_t. That is W q_t for the matrix
W that minimises sum_s |W k_s - v_s|^2 + lam |W|^2. Linear attention is its first gradient step, DeltaNet one step a
token; here the optimum stands at every token.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`). Both sums are formed for `chunk` tokens at a
time, and one system of head_dim equations is solved for each token and head, in at least float32.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: gram and kv (B, H_kv, head_dim, head_dim) in at least float32, sum k^T k and sum k^T v; position (B,) with RoPE.

Paper: von Oswald et al. 2023, "Uncovering mesa-optimization algorithms in Transformers", arXiv 2309.05858.
Differs from the paper: the system is solved afresh at each token instead of updating the inverse by one rank, which
gives the same values and does not gather rounding; lam, which the paper writes as 1 / lambda, is given, not learned;
the forgetting factor is left out. `cost` counts matrix products; the solve (about 2/3 head_dim^3 FLOPs per token and
head) is not one and is not counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer


class Mesa(HeadMixer):
    """Attention through an exact ridge regression, with a constant-size state.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    causal         False: every token reads the regression on the whole sequence, and no state is accepted
    lam            weight of the ridge penalty, above 0
    chunk          tokens computed together; changes speed and memory, not values
    """

    name = "mesa"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        lam: float = 1.0,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        chunk: int = 64,
    ):
        super().__init__(
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            causal=causal,
            rope_theta=rope_theta,
            rope_fraction=rope_fraction,
            rope_interleaved=rope_interleaved,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
        )
        require_positive(Mesa, chunk=chunk)
        if not 0 < lam < float("inf"):
            raise ValueError(
                f"Mesa: lam must be a number above 0, not {lam!r}: without it the first tokens have no solution."
            )
        self.lam, self.chunk = lam, chunk

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        dtype = v.dtype
        q = precise(q).unflatten(1, (self.n_kv_heads, -1))  # (B, H_kv, G, T, d): a group shares one regression
        k, v = precise(k), precise(v)
        if mask is not None:
            k = k * mask[:, None, :, None]
        with full_precision(q):
            if not self.causal:
                weights = self._solve(k.mT @ k, k.mT @ v)
                return (q @ weights[:, :, None]).flatten(1, 2).to(dtype), None
            empty = k.new_zeros(k.shape[0], k.shape[1], k.shape[3], k.shape[3])
            gram, kv = (empty, empty) if state is None else (state["gram"], state["kv"])
            outputs = []
            for start in range(0, k.shape[2], self.chunk):
                some = slice(start, start + self.chunk)
                grams, kvs = _running(gram, k[:, :, some], k[:, :, some]), _running(kv, k[:, :, some], v[:, :, some])
                gram, kv = grams[:, :, -1], kvs[:, :, -1]
                outputs.append(torch.einsum("bhgti,bhtij->bhgtj", q[:, :, :, some], self._solve(grams, kvs)))
            y = torch.cat(outputs, 3) if outputs else q
        return y.flatten(1, 2).to(dtype), {"gram": gram, "kv": kv}

    def _solve(self, gram: Tensor, kv: Tensor) -> Tensor:
        """(gram + lam I)^{-1} kv, the transpose of W."""
        return torch.linalg.solve(gram + self.lam * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device), kv)


def _running(before: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """before + sum_{s<=t} left_s^T right_s for each t: (B, H, T, d, d)."""
    return before[:, :, None] + (left[..., :, None] * right[..., None, :]).cumsum(2)
