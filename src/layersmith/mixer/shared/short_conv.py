"""The short causal convolution before a recurrence: every channel over its last few tokens, one sequence at a time.

Padding has to be out of the way (`inputs.pack`: real tokens in front), because a convolution reads neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def short_conv(conv: nn.Conv1d, x: Tensor, before: Tensor | None, n_real: Tensor | None) -> tuple[Tensor, Tensor]:
    """conv of x (B, T, C), whose real tokens come first, and the inputs that the next call needs.

    conv    depthwise over C channels, without padding
    before  (B, C, kernel size - 1), the inputs before x; None at the start of a sequence, where they are zeros
    n_real  (B,) how many of the T tokens are real; None = all
    """
    inputs, reach = x.mT, conv.kernel_size[0] - 1
    if before is None:
        before = inputs.new_zeros(*inputs.shape[:2], reach)
    inputs = torch.cat((before, inputs), dim=-1)
    if n_real is None:
        last = inputs[..., x.shape[1] :].clone()
    else:
        at = n_real[:, None] + torch.arange(reach, device=x.device)
        last = inputs.gather(2, at[:, None, :].expand(-1, inputs.shape[1], -1))
    return conv(inputs).mT, last
