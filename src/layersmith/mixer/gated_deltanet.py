"""Gated DeltaNet: linear attention whose memory corrects itself and also forgets, as much as each token says.

    q, k = l2norm(silu(conv(W_q x))), l2norm(silu(conv(W_k x)))     v = silu(conv(W_v x))     beta = sigmoid(W_b x)
    a_t = exp(-exp(A) softplus(W_a x_t + b_a))                      in (0, 1), per head
    S_t = a_t S_{t-1} + beta_t k_t^T (v_t - k_t a_t S_{t-1})
    y_t = W_o concat_h (rmsnorm(q_t S_t / sqrt(head_dim)) * silu(W_g x_t))

A memory cleared at a change of subject (a = 0) and corrected within one (a = 1). Computed chunk by chunk
(`shared/delta_rule.py`). With conv=None there is neither convolution nor SiLU: q, k and v are those of
`SoftmaxAttention`, whose weights can be copied in. RoPE and query-key norm, where asked for, come after convolution and
SiLU. Query heads of a group share key, value, beta and decay, and so one memory. Padding is moved out of the way, as in
`DeltaNet`.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k, v (B, H_kv, T, head_dim), beta, a (B, H_kv, T, 1) -> y (B, T, D).
State: S (B, H_kv, head_dim, head_dim) in at least float32; conv (B, (H + 2 H_kv) head_dim, conv - 1), the last
projected inputs, where there is a convolution; position (B,) with RoPE.

Paper: Yang et al. 2024, "Gated Delta Networks: Improving Mamba2 with Delta Rule", arXiv 2412.06464. The layer was
confirmed in Qwen3-Next's (transformers), which the tests compare with, start values of A and b_a in the authors' code.
Differs from the paper: keys and values have one size; conv=None, RoPE and query-key norm are ours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.delta_rule import delta_rule_chunked, delta_rule_recurrent
from layersmith.mixer.shared.heads import HeadMixer, merge_heads, split_heads
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.rope import rotary_table, rotate, token_positions, tokens_seen
from layersmith.mixer.shared.short_conv import short_conv


class GatedDeltaNet(HeadMixer):
    """Delta-rule linear attention with a learned decay.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    conv                tokens the short convolution sees; None = no convolution and no SiLU
    out_gate            multiply the normalised heads by silu(W_g x)
    chunk               tokens computed together; changes speed, not values
    eps                 of the output RMS norm
    """

    name = "gated_deltanet"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        conv: int | None = 4,
        out_gate: bool = True,
        chunk: int = 64,
        eps: float = 1e-6,
    ):
        super().__init__(
            d_model,
            n_heads,
            n_kv_heads,
            head_dim,
            rope_theta=rope_theta,
            rope_fraction=rope_fraction,
            rope_interleaved=rope_interleaved,
            qk_norm=qk_norm,
            qk_norm_eps=qk_norm_eps,
            bias=bias,
            out_bias=out_bias,
        )
        require_positive(GatedDeltaNet, chunk=chunk)
        if conv is not None:
            require_positive(GatedDeltaNet, conv=conv)
        self.chunk = chunk
        channels = (n_heads + 2 * self.n_kv_heads) * self.head_dim
        self.conv = None if conv is None else nn.Conv1d(channels, channels, conv, groups=channels, bias=False)
        self.beta = nn.Linear(d_model, self.n_kv_heads, bias=False)
        self.decay = nn.Linear(d_model, self.n_kv_heads)
        self.log_rate = nn.Parameter(torch.empty(self.n_kv_heads).uniform_(1e-2, 16).log())
        with torch.no_grad():  # softplus of the bias starts between 0.001 and 0.1
            step = torch.empty(self.n_kv_heads).uniform_(math.log(1e-3), math.log(1e-1)).exp()
            self.decay.bias.copy_(step + torch.log(-torch.expm1(-step)))
        self.norm = nn.RMSNorm(self.head_dim, eps=eps)
        self.gate = nn.Linear(d_model, n_heads * self.head_dim, bias=False) if out_gate else None

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        slots = None if mask is None else packed_slots(mask)
        if mask is not None and slots is not None:
            x, n_real = pack(x, slots), mask.sum(1, keepdim=True)
            mask = torch.arange(x.shape[1], device=x.device) < n_real  # real tokens are neighbours, padding comes last
        q, k, v, new = self._keys_and_values(x, state, mask)
        y, new["S"] = self._memory(x, (q, k, v), None if state is None else state["S"], mask)
        y = merge_heads(self.norm(y.to(x.dtype)))
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        y = self.o(y)
        return y if slots is None else unpack(y, slots), new

    def _keys_and_values(
        self, x: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """q, k, v in heads, and what the next call needs to know for them."""
        seen = None if state is None else state.get("position")
        new: State = {} if self.rope_theta is None else {"position": tokens_seen(x, mask, seen)}
        if self.conv is None:
            return *self.project(x, mask, seen), new
        inputs = torch.cat((self.q(x), self.k(x), self.v(x)), dim=-1)
        n_real = None if mask is None else mask.sum(1)
        mixed, new["conv"] = short_conv(self.conv, inputs, None if state is None else state["conv"], n_real)
        sizes = [projection.out_features for projection in (self.q, self.k, self.v)]
        q, k, v = (split_heads(part, self.head_dim) for part in F.silu(mixed).split(sizes, dim=-1))
        q, k = self.q_norm(q), self.k_norm(k)
        if self.rope_theta is not None:
            table = rotary_table(token_positions(x, mask, seen), self.rope_size, self.rope_theta, q.dtype)
            q, k = rotate(q, table, self.rope_interleaved), rotate(k, table, self.rope_interleaved)
        return q, k, v, new

    def _memory(
        self, x: Tensor, qkv: tuple[Tensor, Tensor, Tensor], memory: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """What every head reads, (B, H, T, head_dim), and the memory after the last token."""
        q, k, v = (precise(part) for part in qkv)
        q = (_l2norm(q) * self.head_dim**-0.5).unflatten(1, (self.n_kv_heads, -1))
        k, v = _l2norm(k).unsqueeze(2), v.unsqueeze(2)
        beta = precise(self.beta(x)).sigmoid()
        # -softplus(z) = logsigmoid(-z)
        log_decay = precise(self.log_rate).exp() * F.logsigmoid(-precise(self.decay(x)))
        if mask is not None:
            beta, log_decay = beta * mask[..., None], log_decay * mask[..., None]
        beta, log_decay = (part.mT[:, :, None, :, None] for part in (beta, log_decay))
        if memory is None:
            memory = k.new_zeros(k.shape[0], k.shape[1], self.head_dim, self.head_dim)
        memory = memory.unsqueeze(2)
        with full_precision(x):
            if x.shape[1] == 1:
                y, memory = delta_rule_recurrent(q, k, v, beta, memory, log_decay)
            else:
                y, memory = delta_rule_chunked(q, k, v, beta, memory, self.chunk, log_decay=log_decay)
        return y.flatten(1, 2), memory.squeeze(2)


def _l2norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
