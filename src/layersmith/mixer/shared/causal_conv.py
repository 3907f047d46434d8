"""A causal depthwise convolution in pieces: each channel filters its last K inputs, across the borders of chunks.

    y_t = bias + sum_{i < K} weight_{K-1-i} * x_{t - i * dilation}        * per channel, x = 0 before the start

What the next chunk needs is the last reach = (K - 1) * dilation *real* inputs; with the real tokens in front
(`packed.py`) padding is never among them.

Shapes: x (B, T, C) -> y (B, T, C); state (B, C, reach).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.mixer.shared.packed import count_real


def depthwise(channels: int, size: int, dilation: int = 1, bias: bool = False) -> nn.Conv1d:
    """The convolution as torch has it: weight (C, 1, K), whose last column is the tap at the token itself."""
    return nn.Conv1d(channels, channels, size, dilation=dilation, groups=channels, bias=bias)


def causal_conv(conv: nn.Conv1d, x: Tensor, before: Tensor | None, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """(y, state) of the tokens of x, which come after those of the state `before`; real as in `PackedMixer.mix`.

    The convolution need not be depthwise: y has the channels that it puts out.
    """
    inputs, last = with_past(x, before, (conv.kernel_size[0] - 1) * conv.dilation[0], real)
    return conv(inputs).mT, last


def with_past(x: Tensor, before: Tensor | None, reach: int, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, C, reach + T), x with what came before it, and of that what the token after the last real one can read."""
    inputs = x.mT
    if before is None:
        before = inputs.new_zeros(inputs.shape[0], inputs.shape[1], reach)
    inputs = torch.cat((before, inputs), dim=-1)
    if real is None:
        return inputs, inputs[..., x.shape[1] :].clone()
    at = count_real(x, real)[:, None] + torch.arange(reach, device=x.device)
    return inputs, inputs.gather(2, at[:, None, :].expand(-1, inputs.shape[1], -1))
