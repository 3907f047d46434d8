"""Shifted-window attention: the tokens of a map attend inside square windows, whose borders move from layer to layer.

    token p stands at row p // width, column p % width; e = window - window // 2 if shifted, else 0
    w(p) = ((row + e) // window, (column + e) // window)
    y_t = W_o concat_h sum_{s: w(s) = w(t)} softmax_s(scale * q_t . k_s + b_{h, row_t - row_s, column_t - column_s}) v_s

with one learned bias b for each head and offset. Each token reads at most window^2 others, so the cost is linear in the
size of the map. Shifting every second layer lets neighbours on both sides of a border meet.

Shapes: x (B, T, D), rows of the map one after the other, the last one may be cut off -> q (B, H, T, head_dim), k and v
(B, H_kv, T, head_dim) -> y (B, T, D). No state: the whole map is read at once.

Paper: Liu et al. 2021, "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows". Confirmed in Swin of
transformers: the bias, the shift by half a window, and that windows cut off at the border are not joined with others.
Differs from the paper: its cyclic shift with a mask is written as smaller windows at the border, which is the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.heads import HeadMixer
from layersmith.mixer.shared.inputs import packed_slots


class SwinAttention(HeadMixer):
    """Attention inside the windows of a map.

    d_model, n_heads, n_kv_heads, head_dim, bias, out_bias     as in `SoftmaxAttention`
    width     tokens in a row of the map
    window    side of a window, in tokens
    shifted   whether windows begin half a window early
    scale     factor on the scores; None = head_dim^-0.5
    """

    name = "swin_attention"

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        width: int,
        window: int = 7,
        shifted: bool = False,
        n_kv_heads: int | None = None,
        head_dim: int | None = None,
        bias: bool = True,
        out_bias: bool = True,
        scale: float | None = None,
    ):
        super().__init__(d_model, n_heads, n_kv_heads, head_dim, causal=False, bias=bias, out_bias=out_bias)
        require_positive(SwinAttention, width=width, window=window)
        self.width, self.window = width, window
        self.early = window - window // 2 if shifted else 0
        self.scale = self.head_dim**-0.5 if scale is None else scale
        self.offsets = nn.Parameter(torch.zeros(n_heads, 2 * window - 1, 2 * window - 1))

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, state: State | None, mask: Tensor | None
    ) -> tuple[Tensor, State | None]:
        tokens = q.shape[2]
        if not tokens:
            return q, None
        real = torch.ones(len(q), tokens, device=q.device, dtype=torch.bool) if mask is None else mask
        slot = None
        if mask is not None:  # the map is that of the real tokens
            slot = packed_slots(mask)[:, None, :, None]
            q, k, v = (part.scatter(2, slot.expand_as(part), part) for part in (q, k, v))
            real = torch.arange(tokens, device=q.device) < mask.sum(1, keepdim=True)
        there = self._windows(real[:, None, :, None])[:, :, None, :, 0]  # (B * windows, 1, 1, window^2)
        own = torch.eye(self.window**2, device=q.device, dtype=torch.bool)
        allowed = self._bias().to(q.dtype).masked_fill(~(there | own), float("-inf"))
        q, k, v = (self._windows(part) for part in (q, k, v))
        grouped = q.shape[1] != k.shape[1]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, scale=self.scale, enable_gqa=grouped)
        y = self._map(y, len(real), tokens)
        return y if slot is None else y.gather(2, slot.expand_as(y)), None

    def _sides(self, tokens: int) -> tuple[int, int]:
        """Rows and columns of the map with all its windows whole."""
        rows = -(-tokens // self.width)
        return self._whole(rows + self.early), self._whole(self.width + self.early)

    def _whole(self, side: int) -> int:
        return -(-side // self.window) * self.window

    def _windows(self, x: Tensor) -> Tensor:
        """x (B, H, T, d) -> (B * windows, H, window^2, d), zero where there is no token."""
        rows, columns = self._sides(x.shape[2])
        x = F.pad(x, (0, 0, 0, -x.shape[2] % self.width)).unflatten(2, (-1, self.width))
        early = self.early
        x = F.pad(x, (0, 0, early, columns - early - self.width, early, rows - early - x.shape[2]))
        x = x.unflatten(3, (-1, self.window)).unflatten(2, (-1, self.window))  # (B, H, R, window, C, window, d)
        return x.permute((0, 2, 4, 1, 3, 5, 6)).flatten(4, 5).flatten(0, 2)

    def _map(self, x: Tensor, batch: int, tokens: int) -> Tensor:
        """Undo `_windows`."""
        rows, columns = self._sides(tokens)
        x = x.unflatten(2, (self.window, self.window))
        x = x.unflatten(0, (batch, rows // self.window, columns // self.window)).permute((0, 3, 1, 4, 2, 5, 6))
        x = x.flatten(4, 5).flatten(2, 3)  # (B, H, rows, columns, d)
        return x[:, :, self.early :, self.early : self.early + self.width].flatten(2, 3)[:, :, :tokens]

    def _bias(self) -> Tensor:
        """(H, window^2, window^2): by the offset in rows and in columns."""
        place = torch.arange(self.window**2, device=self.offsets.device)
        row, column = place // self.window, place % self.window
        reach = self.window - 1
        return self.offsets[:, row[:, None] - row + reach, column[:, None] - column + reach]
