"""Shared scores: neighbouring layers attend with the scores of the first of them, and have values of their own alone.

    A = softmax scores of q, k of norm_0(x);   for l = 0, 1, ..:
        x = x + W_o,l (A W_v,l norm_l(x)),   x = x + ffn_l(ffn_norm_l(x))

All layers but the first have neither queries nor keys, nor a cache of keys: half the parameters of their attention and
half of its state.

Shapes: x (B, T, D) -> A (B, H, T, S) -> y (B, T, D). State: that of `softmax_attention`; and v1, v2, .. (B, H_kv, S,
head_dim), the values of the other layers.

Paper: "EfficientASR: Speech Recognition Network Compression via Attention Redundancy and Chunk-Level FFN Optimization".
Not confirmed, from memory and a summary: that a sharing layer adds nothing to the scores it is given.
Differs from the paper: scores are not stored but computed again from the same queries and keys; feed-forwards that work
on chunks of the channels are not there; RoPE and grouped heads are.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from layersmith.block.shared.inside import Composed, Spec, ffn_of, norm_of, operators
from layersmith.contract import Cost, Operator, State, Streaming, require_positive
from layersmith.mixer.shared.heads import merge_heads, split_heads
from layersmith.mixer.shared.key_values import append, remember
from layersmith.mixer.shared.rope import tokens_seen
from layersmith.mixer.softmax import SoftmaxAttention


class SharedScores(Composed):
    """Layers of attention that attend alike.

    d_model      width of the residual stream
    n_heads      query heads; n_kv_heads: key-value heads, None = n_heads
    ffn, norm    specs of the feed-forwards and of all norms
    group        how many layers attend with the same scores
    rope_theta   RoPE base; None = no rotation
    """

    name = "shared_scores"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        ffn: Spec,
        norm: Spec | None = None,
        n_kv_heads: int | None = None,
        group: int = 2,
        rope_theta: float | None = None,
    ):
        super().__init__()
        require_positive(SharedScores, d_model=d_model, group=group)
        self.attention = SoftmaxAttention(d_model, n_heads, n_kv_heads, rope_theta=rope_theta)
        kept = self.attention.v.out_features
        self.values = nn.ModuleList(nn.Linear(d_model, kept, bias=False) for _ in range(group - 1))
        self.outs = nn.ModuleList(nn.Linear(d_model, d_model, bias=False) for _ in range(group - 1))
        self.norms = nn.ModuleList(norm_of(norm, d_model) for _ in range(group))
        self.ffn_norms = nn.ModuleList(norm_of(norm, d_model) for _ in range(group))
        self.ffns = nn.ModuleList(ffn_of(ffn, d_model) for _ in range(group))

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        seen = None if state is None else state.get("position")
        q, k, v = self.attention.project(self.norms[0](x), mask, seen)
        k, v, real = append(state, k, v, mask)
        kept = remember(k, v, real)
        if seen is not None or self.attention.rope_theta is not None:
            kept["position"] = tokens_seen(x, mask, seen)
        for layer, ffn in enumerate(self.ffns):
            out: nn.Module = self.attention.o
            if layer:
                out, name = self.outs[layer - 1], f"v{layer}"
                v = split_heads(self.values[layer - 1](self.norms[layer](x)), self.attention.head_dim)
                v = kept[name] = v if state is None else torch.cat((state[name], v), 2)
            x = x + out(merge_heads(self.attention.attend(q, k, v, real)))
            x = x + ffn(self.ffn_norms[layer](x))
        return x, kept

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(*self.norms, *self.ffn_norms, *self.ffns), self.attention))

    def state_bytes(self, tokens: int, batch: int = 1) -> int:
        return Streaming.state_bytes(self, tokens, batch)

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        return Operator.cost(self, batch, tokens)
