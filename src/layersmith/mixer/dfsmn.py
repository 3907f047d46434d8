"""Feedforward sequential memory: a filter over the neighbours of each token, one set of taps per channel.

    p_t = V relu(U x_t + b)
    y_t = p_t + sum_{i=0..N1} a_i * p_{t - i s1} + sum_{j=1..N2} c_j * p_{t + j s2}         * per channel

The residual stream around the layer is the paper's skip from memory to memory: what it carries is the last memory, and
what it carries next is that plus y. With N2 = 0 nothing is read from ahead, and the layer streams.

Shapes: x (B, T, D) -> relu(U x + b) (B, T, d_hidden) -> p, y (B, T, D).
State: conv (B, D, N1 s1), the last p.

Paper: Zhang et al. 2018, "Deep-FSMN for Large Vocabulary Continuous Speech Recognition", arXiv 1803.05030. Confirmed in
the authors' code (alibaba/Alibaba-MIT-Speech): U with and V without a bias, ReLU between them, p added to both filters,
strides, the last memory added at the end; 20 taps on either side with stride 2 on speech.
Differs from the paper: the width of the memory is that of the residual stream, so that the skip is the stream's own.
Taps start as those of a convolution, where the code draws them between 0 and sqrt(6 / (taps + width)); its number of
taps behind counts the one on the token itself, as the paper's N1 and `behind` do not.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.packed import PackedMixer, only_real
from layersmith.mixer.shared.short_conv import depthwise, short_conv


class DFSMN(PackedMixer):
    """A memory block of learned taps.

    d_model, d_hidden   width of the residual stream; of the ReLU layer
    behind, ahead       N1 and N2, taps before and after the token; with taps ahead it is not causal
    stride, stride_ahead    s1 and s2, tokens between neighbouring taps
    """

    name = "dfsmn"

    def __init__(
        self, d_model: int, d_hidden: int, behind: int = 20, ahead: int = 0, stride: int = 1, stride_ahead: int = 1
    ):
        super().__init__()
        require_positive(DFSMN, d_model=d_model, d_hidden=d_hidden, stride=stride, stride_ahead=stride_ahead)
        for name, taps in (("behind", behind), ("ahead", ahead)):
            if not isinstance(taps, int) or taps < 0:
                raise ValueError(f"DFSMN: {name} must be a number of taps, 0 or more, not {taps!r}.")
        self.causal = self.streams = ahead == 0
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model, bias=False)
        self.taps_behind = depthwise(d_model, behind + 1, dilation=stride)
        self.taps_ahead = depthwise(d_model, ahead, dilation=stride_ahead) if ahead else None

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        p = self.down(F.relu(self.up(x)))
        y, last = short_conv(self.taps_behind, p, None if state is None else state["conv"], n_real)
        if self.taps_ahead is None:
            return p + y, {"conv": last}
        stride, taps = self.taps_ahead.dilation[0], self.taps_ahead.kernel_size[0]
        later = only_real(p, n_real).mT  # padding comes after the last real token
        later = F.pad(later, (0, stride * taps))[..., stride:]
        return p + y + self.taps_ahead(later).mT, None
