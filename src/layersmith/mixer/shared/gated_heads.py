"""Heads over a memory that forgets: what retention and gated linear attention have in common.

    S_t = a_t S_{t-1} + k_t^T v_t,    y_t = W_o concat_h (norm(q_t S_t / sqrt(head_dim)) * silu(W_g x_t))

A mixer derives from `GatedHeads`, and writes `log_decay`, the logarithm of a_t.

Shapes: q (B, H, T, head_dim), k and v (B, H_kv, T, head_dim), log_decay (B, H_kv, T, 1 or head_dim) -> y (B, T, D).
State: kv (B, H_kv, head_dim, head_dim) in at least float32; position (B,) with RoPE.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.gated import gated_scan
from layersmith.mixer.shared.heads import HeadMixer, merge_heads
from layersmith.mixer.shared.inputs import check_inputs
from layersmith.mixer.shared.rope import tokens_seen


class GatedHeads(HeadMixer):
    """Set `norm` (of a head), `gate` (W_g; None = no gate) and `chunk` in the constructor."""

    norm: nn.Module
    gate: nn.Linear | None
    chunk: int

    def log_decay(self, x: Tensor) -> Tensor:
        """(B, H_kv, T, 1) or (B, H_kv, T, head_dim), at most 0, in at least float32; or broadcast to it."""
        raise NotImplementedError

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        seen = None if state is None else state.get("position")
        q, k, v = self.project(x, mask, seen)
        q = (precise(q) * self.head_dim**-0.5).unflatten(1, (self.n_kv_heads, -1))  # a group shares one memory
        k, v, log_decay = precise(k), precise(v), self.log_decay(x)
        if mask is not None:  # a pad is not written, and nothing is forgotten for it
            k, log_decay = k * mask[:, None, :, None], log_decay * mask[:, None, :, None]
        kv = k.new_zeros(*k.shape[:2], self.head_dim, self.head_dim) if state is None else state["kv"]
        with full_precision(x):
            k, v, log_decay, kv = (part.unsqueeze(2) for part in (k, v, log_decay, kv))
            y, kv = gated_scan(q, k, v, log_decay, kv, self.chunk)
        y = merge_heads(self.norm(y.flatten(1, 2).to(x.dtype)))
        if self.gate is not None:
            y = y * F.silu(self.gate(x))
        new = {"kv": kv.squeeze(2)}
        if self.rope_theta is not None:
            new["position"] = tokens_seen(x, mask, seen)
        return self.o(y), new
