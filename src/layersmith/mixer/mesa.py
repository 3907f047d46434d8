"""Mesa layer: every token reads from the past through the ridge regression of values on keys, solved exactly.

    y_t = W_o concat_h  (V_t^T K_t) (K_t^T K_t + lam I)^{-1} q_t

with the rows k_s, v_s of all real s <= t (not causal: of all real tokens) in K_t and V_t. That is W q_t for the matrix
W that minimises sum_s |W k_s - v_s|^2 + lam |W|^2. Linear attention is its first gradient step, DeltaNet one step a
token; here the optimum stands at every token. With forget=True the square of s counts g_{s+1} ... g_t times, with
g_t = sigmoid(W_g x_t + b) per key-value head: what is old may be contradicted. With learn_lam=True every key-value head
has a lam of its own, which starts at lam.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`). Both sums are formed for `chunk` tokens at a
time, and one system of head_dim equations is solved for each token and head, in at least float32.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: gram and kv (B, H_kv, head_dim, head_dim) in at least float32, sum k^T k and sum k^T v; position (B,) with RoPE.

Paper: von Oswald et al. 2023, "Uncovering mesa-optimization algorithms in Transformers", arXiv 2309.05858.
Differs from the paper: the system is solved afresh at each token instead of updating the inverse by one rank, which
gives the same values and does not gather rounding; lam is what the paper writes as 1 / lambda, and is not forgotten
with the squares, so that the system keeps its solution (as in MesaNet, arXiv 2506.05233). `cost` counts matrix
products; the solve (about 2/3 head_dim^3 FLOPs per token and head) is not one and is not counted.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.gated import decay_matrix
from layersmith.mixer.shared.heads import HeadMixer, merge_heads
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.rope import tokens_seen


class Mesa(HeadMixer):
    """Attention through an exact ridge regression, with a constant-size state.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    causal         False: every token reads the regression on the whole sequence, and no state is accepted
    lam            weight of the ridge penalty, above 0
    learn_lam      learn the penalty, one for each key-value head
    forget         let older tokens count less, by what each token says; only with causal=True
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
        learn_lam: bool = False,
        forget: bool = False,
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
        if forget and not causal:
            raise ValueError("Mesa: forget=True tells old tokens from new ones, which causal=False does not.")
        self.lam, self.chunk = lam, chunk
        self.log_lam = nn.Parameter(torch.full((self.n_kv_heads,), lam).log()) if learn_lam else None
        self.keep = nn.Linear(d_model, self.n_kv_heads) if forget else None
        if self.keep is not None:
            nn.init.constant_(self.keep.bias, 5.0)  # sigmoid(5) = 0.993

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        seen = None if state is None else state.get("position")
        q, k, v = self.project(x, mask, seen)
        q = precise(q).unflatten(1, (self.n_kv_heads, -1))  # (B, H_kv, G, T, d): a group shares one regression
        k, v = precise(k), precise(v)
        log_keep = None if self.keep is None else F.logsigmoid(precise(self.keep(x))).mT[..., None]
        if mask is not None:  # a pad is not in the regression, and nothing is forgotten for it
            k = k * mask[:, None, :, None]
            log_keep = None if log_keep is None else log_keep * mask[:, None, :, None]
        with full_precision(x):
            if self.causal:
                y, new = self._step_by_step(q, k, v, log_keep, state)
            else:
                y, new = q @ self._solve(k.mT @ k, k.mT @ v, self._penalty(k))[:, :, None], None
        if new is not None and self.rope_theta is not None:
            new["position"] = tokens_seen(x, mask, seen)
        return self.o(merge_heads(y.flatten(1, 2).to(x.dtype))), new

    def _step_by_step(
        self, q: Tensor, k: Tensor, v: Tensor, log_keep: Tensor | None, state: State | None
    ) -> tuple[Tensor, State]:
        """What every token reads from the regression on the tokens up to itself; both sums after the last one."""
        size = (k.shape[0], k.shape[1], k.shape[3], k.shape[3])
        gram, kv = (k.new_zeros(size), k.new_zeros(size)) if state is None else (state["gram"], state["kv"])
        penalty, outputs = self._penalty(k).unsqueeze(-3), []  # the same for every token
        for start in range(0, k.shape[2], self.chunk):
            some = slice(start, start + self.chunk)
            keys, keep = k[:, :, some], None if log_keep is None else log_keep[:, :, some]
            grams, kvs = _running(gram, keys, keys, keep), _running(kv, keys, v[:, :, some], keep)
            gram, kv = grams[:, :, -1], kvs[:, :, -1]
            outputs.append(torch.einsum("bhgti,bhtij->bhgtj", q[:, :, :, some], self._solve(grams, kvs, penalty)))
        return torch.cat(outputs, 3) if outputs else q, {"gram": gram, "kv": kv}

    def _penalty(self, like: Tensor) -> Tensor:
        """lam I, (d, d); learned, (H_kv, d, d)."""
        eye = torch.eye(like.shape[-1], dtype=like.dtype, device=like.device)
        return self.lam * eye if self.log_lam is None else precise(self.log_lam).exp()[:, None, None] * eye

    @staticmethod
    def _solve(gram: Tensor, kv: Tensor, penalty: Tensor) -> Tensor:
        """(gram + lam I)^{-1} kv, the transpose of W."""
        return torch.linalg.solve(gram + penalty, kv)


def _running(before: Tensor, left: Tensor, right: Tensor, log_keep: Tensor | None) -> Tensor:
    """S_t = g_t S_{t-1} + left_t^T right_t for each t, S_0 = before: (B, H, T, d, d)."""
    products = left[..., :, None] * right[..., None, :]
    if log_keep is None:
        return before[:, :, None] + products.cumsum(2)
    faded = log_keep.cumsum(2).exp()[..., None] * before[:, :, None]
    return faded + (decay_matrix(log_keep) @ products.flatten(-2)).unflatten(-1, products.shape[-2:])
