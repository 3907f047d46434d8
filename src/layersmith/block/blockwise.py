"""Blockwise: the usual layer, computed for a few tokens at a time, so that no wide activation exists for all of them.

    for each stretch of `chunk` tokens:   z = x + attention(norm(x))      over keys and values of all it may see
                                          y = z + ffn(ffn_norm(z))        before the next stretch begins

Outputs and gradients are those of a `series` block. In training each stretch is computed again when its gradient is
wanted, so what is held are the stream, queries, keys and values, and of wider things those of one stretch: the T
d_hidden numbers of the feed-forward exist at no time. The price is one more forward in the backward pass, some of
which comes back where a stretch fits into a cache that the whole does not.

Shapes: x (B, T, D) -> (B, T, D). State: that of `softmax_attention`.

Paper: Liu & Abbeel 2023, "Blockwise Parallel Transformer for Long Context Large Models". The order (attention, then at
once the feed-forward of the same queries, with rematerialisation) is the paper's.
Differs from the paper: the sum over blocks of keys with a running maximum is left to torch's attention, which does it;
where that cannot be used, a stretch's scores over all keys are held. An auxiliary loss of a feed-forward is that of
the last stretch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from layersmith.block.shared.inside import Composed, Spec, ffn_of, mixer_of, norm_of, operators
from layersmith.contract import Cost, Operator, State, require_positive
from layersmith.errors import UserError
from layersmith.mixer.shared.heads import merge_heads
from layersmith.mixer.shared.key_values import append, remember
from layersmith.mixer.shared.rope import tokens_seen
from layersmith.mixer.softmax import SoftmaxAttention


class Blockwise(Composed):
    """Attention and feed-forward, a stretch of tokens at a time.

    d_model         width of the residual stream
    mixer           spec of a softmax attention
    ffn             spec of the feed-forward
    norm, ffn_norm  specs of their norms; None for none
    chunk           tokens computed together; changes memory and speed, not values
    """

    name = "blockwise"

    def __init__(
        self,
        d_model: int,
        mixer: Spec,
        ffn: Spec,
        norm: Spec | None = None,
        ffn_norm: Spec | None = None,
        chunk: int = 128,
    ):
        super().__init__()
        require_positive(Blockwise, d_model=d_model, chunk=chunk)
        built = mixer_of(mixer, d_model)
        if not isinstance(built, SoftmaxAttention):
            raise UserError(
                f"The mixer of a blockwise layer is {mixer['name']!r}; it has to be 'softmax_attention', whose queries "
                f"can be taken a few at a time."
            )
        if built.window is not None and not built.causal:
            raise UserError("The attention of a blockwise layer has a window or is not causal, not both.")
        self.chunk, self.mixer = chunk, built
        self.norm, self.ffn_norm = norm_of(norm, d_model), norm_of(ffn_norm, d_model)
        self.ffn = ffn_of(ffn, d_model)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        self.check_inputs(x, state, mask)
        seen = None if state is None else state.get("position")
        q, k, v = self.mixer.project(self.norm(x), mask, seen)
        new: State | None = None
        real = mask
        if self.mixer.causal:
            k, v, real = append(state, k, v, mask)
            new = remember(k, v, real, self.mixer.window)
            if self.mixer.rope_theta is not None:
                new["position"] = tokens_seen(x, mask, seen)
        before, parts = k.shape[2] - x.shape[1], []
        for start in range(0, x.shape[1], self.chunk):
            stop = min(start + self.chunk, x.shape[1])
            given = (x[:, start:stop], q[:, :, start:stop], k, v, real, before + start)
            if torch.is_grad_enabled() and self.training:
                parts.append(checkpoint(self._stretch, *given, use_reentrant=False))
            else:
                parts.append(self._stretch(*given))
        return torch.cat(parts, dim=1) if parts else x, new

    def _stretch(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, before: int) -> Tensor:
        """The layer at some tokens (B, C, D), of which `before` slots stand in front; k and v are those of all."""
        stop, slots = before + x.shape[1], k.shape[2]
        # The mixer takes queries to be those of the last tokens it is shown. Where there is no order, turn them there.
        if self.mixer.causal:
            k, v, real = k[:, :, :stop], v[:, :, :stop], None if real is None else real[:, :stop]
        elif real is not None:
            k, v, real = k.roll(slots - stop, 2), v.roll(slots - stop, 2), real.roll(slots - stop, 1)
        z = x + self.mixer.o(merge_heads(self.mixer.attend(q, k, v, real)))
        return z + self.ffn(self.ffn_norm(z))

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        """The parts' own accounts, less the pairs of tokens that lie ahead of a stretch and are not computed."""
        whole = super().cost(batch, tokens)
        if not self.mixer.causal:
            return whole
        starts = range(0, tokens, self.chunk)
        pairs = sum((min(start + self.chunk, tokens) - start) * min(start + self.chunk, tokens) for start in starts)
        ahead = 4 * batch * self.mixer.q.out_features * (tokens**2 - pairs)  # two products
        return replace(whole, flops=whole.flops - ahead)

    def runs(self) -> Iterator[tuple[Operator, int]]:
        return ((part, 1) for part in (*operators(self.norm, self.ffn_norm), self.mixer, self.ffn))
