"""Mamba-2: linear attention that forgets, by one factor per token and head, behind a short convolution.

    x, B, C = silu(conv([W_x u, W_B u, W_C u]))        dt = softplus(W_dt u + bias)      a_t = exp(-dt_t exp(log_a))
    S_t = a_t S_{t-1} + dt_t B_t x_t^T                 y_t = S_t^T C_t + d x_t
    out_t = W_o rmsnorm(y_t * silu(W_z u_t))           the norm over each group

Heads of x that belong to one group share B and C. Read as attention, C is the query, B the key and x the value: with
a_t = 1, dt = 1, a convolution that passes its input on and without silu, norm, gate and d it is causal linear
attention without a normaliser, which is how a trained attention is turned into it. For that there are `queries` C
vectors of a group that read the same states, as the heads of grouped-query attention do, and the norms and the
rotation (`shared/rope.py`) of queries and keys, behind the convolution.

Computed chunk by chunk with matrix products (`shared/gated.py`); real tokens are neighbours (`shared/packed.py`).

Shapes: u (B, T, D) -> x (B, H, T, head_dim), B (B, G, T, N), C (B, G * queries, T, N), a and dt (B, H, T, 1)
-> y (B, queries * H, T, head_dim) -> out (B, T, D).
State: S (B, H, N, head_dim) in at least float32; conv (B, H head_dim + G N (1 + queries), conv - 1), the last inputs
of the convolution; position (B,) int64 with rope, the real tokens so far.

Paper: Dao & Gu 2024, "Transformers are SSMs", arXiv 2405.21060. The layer (order of convolution and silu, norm after
the gate and by groups, start of log_a, dt and d) was confirmed in transformers' Mamba2Mixer, which this equals with
copied weights.
Differs from the paper: W_x, W_B, W_C, W_dt and W_z are maps of their own instead of rows of one; step sizes are not
clamped. What only an attention that is turned into it needs is ours: `queries`, rope, the norm of queries and keys,
and that gate, norm and silu can be left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.gated import gated_scan
from layersmith.mixer.shared.heads import HeadNorm, merge_heads, split_heads
from layersmith.mixer.shared.packed import PackedMixer, counted, only_real
from layersmith.mixer.shared.rope import rotary_size, rotary_table, rotate, token_positions
from layersmith.mixer.shared.selective import step_bias
from layersmith.mixer.shared.short_conv import depthwise, short_conv


class Mamba2(PackedMixer):
    """A state space with one decay per head.

    d_model, n_heads    width of the residual stream, number of heads of x
    head_dim            channels of a head; None = 2 d_model / n_heads, the paper's expansion by two
    d_state             N, numbers that a channel keeps
    n_groups            how many B (and C) there are; heads in a group share them
    queries             C vectors per group, each of which reads all states of the group
    conv                tokens the convolution sees; 1 = it only scales channels
    gated, norm, silu   the gate W_z, the norm behind it, the silu behind the convolution
    rope_*, qk_norm     rotation and RMS norm of the heads of C and B, as in `SoftmaxAttention`
    bias, conv_bias     biases of the maps x, B, C, z and o, and of the convolution
    chunk               tokens computed together; changes speed, not values
    eps                 of the norm
    """

    name = "mamba2"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        head_dim: int | None = None,
        d_state: int = 64,
        n_groups: int = 1,
        queries: int = 1,
        conv: int = 4,
        gated: bool = True,
        norm: bool = True,
        silu: bool = True,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        conv_bias: bool = True,
        chunk: int = 64,
        eps: float = 1e-5,
    ):
        super().__init__()
        require_positive(Mamba2, d_model=d_model, n_heads=n_heads, d_state=d_state, n_groups=n_groups)
        require_positive(Mamba2, queries=queries, conv=conv, chunk=chunk)
        if head_dim is None:
            if 2 * d_model % n_heads:
                raise ValueError(
                    f"Mamba2: 2 d_model={2 * d_model} is not a multiple of n_heads={n_heads}; give head_dim."
                )
            head_dim = 2 * d_model // n_heads
        require_positive(Mamba2, head_dim=head_dim)
        if n_heads % n_groups:
            raise ValueError(f"Mamba2: n_heads={n_heads} must be a multiple of n_groups={n_groups}.")
        self.head_dim, self.d_state, self.n_groups, self.chunk, self.eps = head_dim, d_state, n_groups, chunk, eps
        self.silu, self.rope_theta, self.rope_interleaved = silu, rope_theta, rope_interleaved
        self.rope_size = rotary_size(Mamba2, d_state, rope_theta, rope_fraction, rope_interleaved)
        self.widths = (n_heads * head_dim, n_groups * d_state, n_groups * queries * d_state)
        read = n_heads * queries * head_dim
        self.x, self.b, self.c = (nn.Linear(d_model, width, bias=bias) for width in self.widths)
        self.conv = depthwise(sum(self.widths), conv, bias=conv_bias)
        self.dt = nn.Linear(d_model, n_heads)
        self.log_a = nn.Parameter(torch.arange(1.0, n_heads + 1).log())
        self.d = nn.Parameter(torch.ones(n_heads))
        self.z = nn.Linear(d_model, read, bias=bias) if gated else None
        self.norm = nn.Parameter(torch.ones(read)) if norm else None
        self.o = nn.Linear(read, d_model, bias=bias)
        self.q_norm = HeadNorm(d_state, eps=qk_norm_eps) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(d_state, eps=qk_norm_eps) if qk_norm else nn.Identity()
        with torch.no_grad():
            self.dt.bias.copy_(step_bias(n_heads))

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        old: State = {} if state is None else state
        inputs = torch.cat((self.x(x), self.b(x), self.c(x)), dim=-1)
        inputs, conv_state = short_conv(self.conv, inputs, old.get("conv"), n_real)
        if self.silu:
            inputs = F.silu(inputs)
        new = {"conv": conv_state}
        values, keys, queries = inputs.split(self.widths, dim=-1)
        v = split_heads(values, self.head_dim)
        q, k = self.q_norm(split_heads(queries, self.d_state)), self.k_norm(split_heads(keys, self.d_state))
        if self.rope_theta is not None:
            positions = token_positions(x, None, old.get("position"))
            table = rotary_table(positions, self.rope_size, self.rope_theta, q.dtype)
            q, k = (rotate(part, table, self.rope_interleaved) for part in (q, k))
            new["position"] = counted(x, n_real) + positions[:, 0]
        # The bias is added in full precision: a small step is the softplus of a number of some size.
        steps = precise(F.linear(x, self.dt.weight)) + precise(self.dt.bias)
        dt = F.softplus(steps.mT.contiguous())  # (B, H, T)
        gate = None if self.z is None else F.silu(precise(self.z(x)))
        with full_precision(x):
            y, new["S"] = self._scan(precise(q), precise(k), precise(v), only_real(dt.mT, n_real).mT, old.get("S"))
            if gate is not None:
                y = y * gate
            if self.norm is not None:
                y = F.rms_norm(y.unflatten(-1, (self.n_groups, -1)), (y.shape[-1] // self.n_groups,), eps=self.eps)
                y = y.flatten(-2) * self.norm
        return self.o(y.to(x.dtype)), new

    def _scan(self, q: Tensor, k: Tensor, v: Tensor, dt: Tensor, memory: Tensor | None) -> tuple[Tensor, Tensor]:
        """(y (B, T, .), S); v (B, H, T, head_dim), k (B, G, T, N), q (B, G * queries, T, N), dt (B, H, T)."""
        groups = (self.n_groups, -1)
        q, k = q.unflatten(1, groups).unsqueeze(3), k[:, :, None, None]  # (B, G, queries, 1, T, N), (B, G, 1, 1, T, N)
        v = v.unflatten(1, groups).unsqueeze(2)  # (B, G, 1, H / G, T, head_dim)
        dt = dt[..., None].unflatten(1, groups).unsqueeze(2)  # (B, G, 1, H / G, T, 1)
        a, d = (p.unflatten(0, groups)[:, None, :, None, None] for p in (-precise(self.log_a).exp(), self.d))
        if memory is None:
            memory = v.new_zeros(v.shape[0], len(self.log_a), self.d_state, self.head_dim)
        memory = memory.unflatten(1, groups).unsqueeze(2)
        y, memory = gated_scan(q, k, dt * v, dt * a, memory, self.chunk)
        return merge_heads((y + d * v).flatten(1, 3)), memory.squeeze(2).flatten(1, 2)
