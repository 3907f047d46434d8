"""A causal convolution in pieces: every channel over its last K inputs, one sequence at a time, across chunks.

    y_t = bias + sum_{i < K} weight_{K-1-i} x_{t - i * dilation}            x = 0 before the start

What the next chunk needs is the last reach = (K - 1) * dilation *real* inputs. Padding has to be out of the way
(`inputs.pack`, `packed.py`: real tokens in front), because a convolution reads neighbours.

Shapes: x (B, T, C) -> y (B, T, C'); before and last (B, C, reach).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def depthwise(channels: int, size: int, dilation: int = 1, bias: bool = False) -> nn.Conv1d:
    """One filter per channel: weight (C, 1, K), whose last column is the tap at the token itself."""
    return nn.Conv1d(channels, channels, size, dilation=dilation, groups=channels, bias=bias)


def short_conv(conv: nn.Conv1d, x: Tensor, before: Tensor | None, n_real: Tensor | None) -> tuple[Tensor, Tensor]:
    """conv of x (B, T, C), whose real tokens come first, and the inputs that the next call needs.

    conv    over C channels, without padding
    before  (B, C, reach), the inputs before x; None at the start of a sequence, where they are zeros
    n_real  (B,) how many of the T tokens are real; None = all
    """
    inputs, last = with_past(x, before, (conv.kernel_size[0] - 1) * conv.dilation[0], n_real)
    return conv(inputs).mT, last


def with_past(x: Tensor, before: Tensor | None, reach: int, n_real: Tensor | None) -> tuple[Tensor, Tensor]:
    """(B, C, reach + T), x behind what came before it, and of that what the token after the last real one can read."""
    inputs = x.mT
    if before is None:
        before = inputs.new_zeros(*inputs.shape[:2], reach)
    inputs = torch.cat((before, inputs), dim=-1)
    return inputs, last_inputs(inputs, reach, n_real)


def last_inputs(inputs: Tensor, reach: int, n_real: Tensor | None) -> Tensor:
    """The last `reach` real inputs (B, C, reach) of (B, C, reach + T), of which the first n_real of the T are real."""
    if n_real is None:
        return inputs[..., inputs.shape[-1] - reach :].clone()
    at = n_real[:, None] + torch.arange(reach, device=inputs.device)
    return inputs.gather(2, at[:, None, :].expand(-1, inputs.shape[1], -1))
