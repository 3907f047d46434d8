"""Simplified linear attention: ReLU features for the whole past, a short convolution of the values for what is near.

    y_t = W_o concat_h ( relu(q_t) S_t / (relu(q_t) z_t + eps) + sum_j c_j * v_{t-j} + b ),
    S_t = sum_{s<=t} relu(k_s)^T v_s,    z_t = sum_{s<=t} relu(k_s)^T

with one kernel c (kernel, head_dim) for all heads. Linear attention spreads its weights; the convolution gives back the
sharp local part. Causal: the last `kernel` tokens; not causal: the tokens around, and sums over the whole sequence.

The maps q, k, v, o are those of `SoftmaxAttention` (`shared/heads.py`), whose weights can be copied in. Padding is
moved out of the way, because the convolution reads neighbours.

Shapes: x (B, T, D) -> q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim) -> y (B, T, D).
State: kv (B, H_kv, head_dim, head_dim + 1) in at least float32, S and z; conv (B, H_kv head_dim, kernel - 1), the last
values; position (B,) with RoPE.

Paper: Guo et al. 2024, "SLAB: Efficient Transformers with Simplified Linear Attention and Progressive
Re-parameterized Batch Normalization", arXiv 2405.11582. ReLU, the kernel shared by heads, its size and bias as in the
authors' code for pictures (from memory).
Differs from the paper: tokens stand in a line, there on a grid with a kernel of 5 x 5; the causal form is ours; the
learned vector of each place, added to keys of a fixed number of tokens, is left out (RoPE may be used instead).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import additive_scan, full_precision, precise
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.short_conv import last_inputs


class SimplifiedLinearAttention(HeadMixer):
    """ReLU linear attention plus a depthwise convolution of the values.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias, rope_*, qk_norm     as in `SoftmaxAttention`
    causal         False: every token reads the whole sequence, and no state is accepted
    kernel         tokens the convolution sees; odd when not causal, where it looks to both sides
    chunk          tokens computed together; changes speed, not values
    eps            added to the normaliser
    """

    name = "sla"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        causal: bool = True,
        kernel: int = 5,
        rope_theta: float | None = None,
        rope_fraction: float = 1.0,
        rope_interleaved: bool = False,
        qk_norm: bool = False,
        qk_norm_eps: float = 1e-6,
        bias: bool = False,
        out_bias: bool = False,
        chunk: int = 64,
        eps: float = 1e-6,
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
        require_positive(SimplifiedLinearAttention, kernel=kernel, chunk=chunk)
        if not causal and kernel % 2 == 0:
            raise ValueError(
                f"SimplifiedLinearAttention: kernel={kernel} must be odd when causal=False, so that it looks as far "
                f"ahead as back."
            )
        self.chunk, self.eps = chunk, eps
        self.conv = nn.Conv1d(self.head_dim, self.head_dim, kernel, groups=self.head_dim)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, state
        if mask is None:
            return super().forward(x, state, None)
        slots = packed_slots(mask)
        front = torch.arange(x.shape[1], device=x.device) < mask.sum(1, keepdim=True)
        y, new = super().forward(pack(x, slots), state, front)  # real tokens are neighbours now, padding comes last
        return unpack(y, slots), new

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        if mask is not None:
            k, v = k * mask[:, None, :, None], v * mask[:, None, :, None]
        near, last = self._near(v, None if state is None else state["conv"], mask)
        dtype = v.dtype
        q = precise(q).relu().unflatten(1, (self.n_kv_heads, -1))
        k, v = precise(k).relu().unsqueeze(2), F.pad(precise(v).unsqueeze(2), (0, 1), value=1.0)
        with full_precision(q):
            new: State | None = None
            if last is not None:
                empty = k.new_zeros(k.shape[0], k.shape[1], k.shape[-1], v.shape[-1])
                kv = empty if state is None else state["kv"]
                y, kv = additive_scan(q, k, v, kv.unsqueeze(2), self.chunk)
                new = {"kv": kv.squeeze(2), "conv": last}
            else:
                y = q @ (k.mT @ v)
            y = y[..., :-1] / (y[..., -1:] + self.eps)
        return (y.to(dtype) + near.unsqueeze(2)).flatten(1, 2), new

    def _near(self, v: Tensor, before: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The convolution of v (B, H_kv, T, head_dim), whose pads come last and are zero, and the values to keep.

        None is kept where the whole sequence is there.
        """
        kernel = self.conv.kernel_size[0]
        channels = v.transpose(2, 3)
        if not self.causal:
            channels = F.pad(channels, (kernel // 2, kernel // 2))
            return self._convolve(channels), None
        if before is None:
            before = channels.new_zeros(v.shape[0], v.shape[1] * v.shape[3], kernel - 1)
        channels = torch.cat((before.unflatten(1, (v.shape[1], v.shape[3])), channels), -1)
        last = last_inputs(channels.flatten(1, 2), kernel - 1, None if mask is None else mask.sum(1))
        return self._convolve(channels), last

    def _convolve(self, x: Tensor) -> Tensor:
        """(B, H_kv, head_dim, T + kernel - 1) -> (B, H_kv, T, head_dim)."""
        return self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mT
