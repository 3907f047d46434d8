"""A gated memory without recurrence: dilated filters, each of which reads all before it, times a gate.

    u, v = (silu(W norm(x)) + conv(silu(W norm(x))))        two convolutional units with weights of their own
    p = V relu(U u + b)            o_0 = p,     o_i = prelu(conv_i([o_{i-1}, ..., o_0])), dilation 2^(i-1), depthwise
    y = v * (u + o_depth)

conv_i gives a channel the same channel of all outputs before it. So y_t reads, through o_depth, the last
1 + (2^depth - 1)(K - 1) values of u, and these the last tokens that the unit's own convolution sees.

Shapes: x (B, T, D) -> u, v, p, o_i, y (B, T, D).
State: units (B, 2 D, unit - 1), the last inputs of the units' convolutions; memory1, memory2, ... (B, i D, reach of
conv_i), those of the dilated ones.

Paper: Zhao et al. 2023, "MossFormer2: Combining Transformer and RNN-Free Recurrent Network for Enhanced Time-Domain
Monaural Speech Separation", arXiv 2312.11825. The units, the order of U, ReLU and V, the dense connections, dilations
and PReLU, and the gate were confirmed in the released code.
Differs from the paper: causal; there filters look both ways and every o_i is normalised over the whole sequence. A
channel reads its own channel of all outputs before it; the released code's groups pair neighbouring channels of the
concatenation. One norm stands before both units, whose maps can take up its scales. The residual stream is the model's;
the bottleneck and output maps around the block are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.packed import PackedMixer
from layersmith.mixer.shared.short_conv import depthwise, short_conv


class GatedFSMN(PackedMixer):
    """A gated, dilated memory block.

    d_model, d_hidden   width of the residual stream; of the ReLU layer
    taps                K, taps of each dilated filter
    depth               how many there are
    unit                tokens that the convolutions of u and v see
    """

    name = "gated_fsmn"

    def __init__(self, d_model: int, d_hidden: int, taps: int = 20, depth: int = 2, unit: int = 17):
        super().__init__()
        require_positive(GatedFSMN, d_model=d_model, d_hidden=d_hidden, taps=taps, depth=depth, unit=unit)
        self.norm, self.units = nn.LayerNorm(d_model), nn.Linear(d_model, 2 * d_model)
        self.units_conv = depthwise(2 * d_model, unit)
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, d_model, bias=False)
        self.memories = nn.ModuleList(
            nn.Conv1d((i + 1) * d_model, d_model, taps, dilation=2**i, groups=d_model, bias=False) for i in range(depth)
        )
        self.slopes = nn.ModuleList(nn.PReLU(d_model) for _ in range(depth))

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        old: State = {} if state is None else state
        new: State = {}
        units = F.silu(self.units(self.norm(x)))
        filtered, new["units"] = short_conv(self.units_conv, units, old.get("units"), n_real)
        u, v = (units + filtered).chunk(2, dim=-1)
        out = self.down(F.relu(self.up(u)))
        outs = [out]
        for i, (conv, slope) in enumerate(zip(self.memories, self.slopes, strict=True)):
            # A channel's own inputs lie side by side: (B, T, D, i + 1).
            inputs = torch.stack(outs[::-1], dim=-1).flatten(-2)
            past = old.get(f"memory{i + 1}")
            out, new[f"memory{i + 1}"] = short_conv(conv, inputs, past, n_real)  # type: ignore[arg-type]
            out = slope(out.mT).mT
            outs.append(out)
        return v * (u + out), new
