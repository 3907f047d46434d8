"""Bidirectional RWKV: every feature takes a weighted mean over the whole sequence, fading with distance on both sides.

    x'_t = mix * x_t + (1 - mix) * shift(x)_t             for r, k, v each; shift: half of the channels from the token
                                                          before, half from the one after, 0 beyond the ends
    m_t  = ( sum_{s != t} e^{k_s - (|t - s| - 1) w / n} v_s + e^{u + k_t} v_t ) / ( the same without v )
    y_t  = W_o (sigmoid(r_t) * m_t)

with w and u learned per feature and n the number of tokens, so that the fading spans a picture or a text of any size; a
w below 0 looks far. Two sums that run along, one in each direction (`shared/running.py`): linear but for a factor
log2(T). Not causal: a state is refused. Padding is moved out of the way and does not count in n.

Shapes: x (B, T, D) -> r, k, v (B, T, D) -> y (B, T, D).

Papers: Fei et al. 2024, "Diffusion-RWKV: Scaling RWKV-Like Architectures for Diffusion Models", arXiv 2404.04478, whose
mixer is that of Duan et al. 2024, "Vision-RWKV", arXiv 2403.02308. Confirmed in feizc/Diffusion-RWKV and OpenGVLab's
Vision-RWKV: mixing, gate, maps without biases, w / n of either sign. The distance less one and u are as in the
equation; the code divides u by n, too.
Differs from the papers: tokens stand in a line; on a grid the shift takes quarters from four sides. Their channel
mixing, a feed-forward, is no part of this one. w starts from 0.4 to 20, there from -5 to 3, u at 0 and mix at a half.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.running import Sums, add_sums, finite, running_sums


class BiRWKV(Mixer):
    """Bidirectional weighted means with learned fading.

    d_model    width of the residual stream
    """

    name = "bi_rwkv"
    causal = False
    streams = False

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(BiRWKV, d_model=d_model)
        self.r, self.k, self.v, self.o = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.mix = nn.Parameter(torch.full((3, d_model), 0.5))
        self.fading = nn.Parameter((4 * torch.arange(d_model) / d_model - 1).exp())
        self.own = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, None
        slots = None if mask is None else packed_slots(mask)
        n = torch.full((len(x),), x.shape[1], device=x.device) if mask is None else mask.sum(1)
        real = torch.arange(x.shape[1], device=x.device) < n[:, None]
        if slots is not None:
            x = pack(x, slots) * real[..., None]
        near = shifted(x)
        r, k, v = (
            project(near + mix * (x - near)) for project, mix in zip((self.r, self.k, self.v), self.mix, strict=True)
        )
        k, v = precise(k).masked_fill(~real[..., None], -torch.inf), precise(v)
        with full_precision(x):
            y = self._mean(k, v, n)
        y = self.o(r.sigmoid() * y.to(x.dtype))
        return (y if slots is None else unpack(y, slots)), None

    def _mean(self, k: Tensor, v: Tensor, n: Tensor) -> Tensor:
        fading = precise(self.fading) / n.clamp(min=1)[:, None, None]
        left = running_sums(k, v, fading)
        right = [part.flip(1) for part in running_sums(k.flip(1), v.flip(1), fading)]
        own = k + precise(self.own)
        top = own.detach()
        size = (own - finite(top)).exp()
        sums = add_sums(add_sums(_later(left), _later(right, -1)), (top, size * v, size))
        return sums[1] / sums[2].clamp(min=1e-30)


def _later(sums: Sums | list[Tensor], by: int = 1) -> Sums:
    """The sums up to the token before (by=1) or after (by=-1), unfaded; nothing at the end."""
    ends = (0, 0, 1, -1) if by == 1 else (0, 0, -1, 1)
    top, a, z = (F.pad(part, ends, value=nothing) for part, nothing in zip(sums, (-torch.inf, 0.0, 0.0), strict=True))
    return top, a, z


def shifted(x: Tensor) -> Tensor:
    """Half of the channels of the token before, half of those of the token after: (B, T, D)."""
    before, after = x.tensor_split(2, dim=-1)
    return torch.cat((F.pad(before, (0, 0, 1, -1)), F.pad(after, (0, 0, -1, 1))), dim=-1)
