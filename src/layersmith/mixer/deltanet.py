"""DeltaNet: linear attention whose memory corrects itself; writing a key again replaces its value.

    q, k = l2norm(silu(conv(W_q x))), l2norm(silu(conv(W_k x)))     v = silu(conv(W_v x))     beta = sigmoid(W_b x)
    S_t = S_{t-1} + beta_t k_t^T (v_t - k_t S_{t-1})                one gradient step on |k_t S - v_t|^2 / 2
    y_t = W_o concat_h rmsnorm(q_t S_t / sqrt(head_dim))

with a causal depthwise convolution over `conv` tokens. A whole sequence is computed chunk by chunk, with one triangular
system for the C corrections of a chunk (`shared/delta_rule.py`).

It has a forward of its own instead of that of `shared/heads.py`: q, k and v pass a convolution over neighbouring
tokens before they are split into heads, so padding is moved out of the way instead of being masked.

Shapes: x (B, T, D) -> q, k, v (B, H, T, head_dim), beta (B, H, T, 1) -> y (B, T, D).
State: S (B, H, head_dim, head_dim) in at least float32; conv (B, 3 H head_dim, conv - 1), the last projected inputs.

Paper: Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule over Sequence Length", arXiv
2406.06484. The layer (SiLU and convolution on q, k and v, L2 norm, sigmoid beta without bias, RMS norm per head, no
output gate, query scale) was confirmed in the authors' released code.
Differs from the paper: keys and values have one size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.delta_rule import delta_rule_chunked, delta_rule_recurrent
from layersmith.mixer.shared.heads import head_sizes, merge_heads, split_heads
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.short_conv import short_conv


class DeltaNet(Mixer):
    """Delta-rule linear attention.

    d_model, n_heads    width of the residual stream, number of heads
    head_dim            size of keys and values of a head; None = d_model / n_heads
    conv                tokens the short convolution sees; 1 = it only scales channels
    chunk               tokens computed together; changes speed, not values
    eps                 of the output RMS norm
    """

    name = "deltanet"

    def __init__(
        self, d_model: int, n_heads: int, head_dim: int | None = None, conv: int = 4, chunk: int = 64, eps: float = 1e-5
    ):
        super().__init__()
        _, head_dim = head_sizes(DeltaNet, d_model, n_heads, None, head_dim)
        require_positive(DeltaNet, conv=conv, chunk=chunk)
        self.head_dim, self.chunk = head_dim, chunk
        width = n_heads * head_dim
        self.q = nn.Linear(d_model, width, bias=False)
        self.k = nn.Linear(d_model, width, bias=False)
        self.v = nn.Linear(d_model, width, bias=False)
        self.beta = nn.Linear(d_model, n_heads, bias=False)
        self.conv = nn.Conv1d(3 * width, 3 * width, conv, groups=3 * width, bias=False)
        self.norm = nn.RMSNorm(head_dim, eps=eps)
        self.o = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        slots = None if mask is None else packed_slots(mask)
        n_real = None
        if mask is not None and slots is not None:
            x, n_real = pack(x, slots), mask.sum(1)  # real tokens are neighbours now, padding comes last
        q, k, v, conv_state = self._short_conv(x, state, n_real)
        beta = self.beta(x).sigmoid()
        if n_real is not None:
            beta = beta * (torch.arange(x.shape[1], device=x.device) < n_real[:, None])[..., None]
        q, k, v, beta = precise(q), precise(k), precise(v), precise(beta).transpose(1, 2).unsqueeze(-1)
        q, k = _l2norm(q) * self.head_dim**-0.5, _l2norm(k)
        with full_precision(x):
            memory = state["S"] if state is not None else q.new_zeros(*q.shape[:2], self.head_dim, self.head_dim)
            if x.shape[1] == 1:
                y, memory = delta_rule_recurrent(q, k, v, beta, memory)
            else:
                y, memory = delta_rule_chunked(q, k, v, beta, memory, self.chunk)
        y = self.o(merge_heads(self.norm(y.to(x.dtype))))
        return y if slots is None else unpack(y, slots), {"S": memory, "conv": conv_state}

    def _short_conv(
        self, x: Tensor, state: State | None, n_real: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k, v (B, H, T, head_dim) after convolution and SiLU, and the inputs the next chunk's convolution needs."""
        inputs = torch.cat((self.q(x), self.k(x), self.v(x)), dim=-1)
        mixed, last = short_conv(self.conv, inputs, None if state is None else state["conv"], n_real)
        parts = F.silu(mixed).chunk(3, dim=-1)
        q, k, v = (split_heads(part, self.head_dim) for part in parts)
        return q, k, v, last


def _l2norm(x: Tensor) -> Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)
