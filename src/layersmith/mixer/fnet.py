"""FNet: tokens are mixed by a Fourier transform, and nothing is learned.

    Y = Re F_T X F_D        discrete Fourier transforms over the tokens and over the channels

Shapes: x (B, T, D) -> y (B, T, D). Not causal, no state, no parameters.

Paper: Lee-Thorp et al. 2021, "FNet: Mixing Tokens with Fourier Transforms", arXiv 2105.03824 (equal to transformers'
FNetBasicFourierTransform).
Differs from the paper: each sequence is transformed over its own real tokens, where the paper transforms padding
along with them; with a mask that takes time in the square of the length.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.contract import Mixer, State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.inputs import check_inputs, pack, packed_slots, unpack
from layersmith.mixer.shared.spectral import fourier_waves


class FNet(Mixer):
    """A two-dimensional Fourier transform.

    d_model   width of the residual stream

    Worked example. Two tokens of one channel become their sum and their difference:

    >>> import torch
    >>> FNet(1)(torch.tensor([[[5.0], [3.0]]]))[0].flatten().tolist()
    [8.0, 2.0]
    """

    name = "fnet"
    causal = False
    streams = False

    def __init__(self, d_model: int):
        super().__init__()
        require_positive(FNet, d_model=d_model)

    def forward(self, x: Tensor, state: State | None = None, mask: Tensor | None = None) -> tuple[Tensor, State | None]:
        check_inputs(self, x, state, mask)
        if x.shape[1] == 0:
            return x, None
        with full_precision(x):
            if mask is None:
                return torch.fft.fft2(precise(x), dim=(1, 2)).real.to(x.dtype), None
            slots = packed_slots(mask)
            channels = torch.fft.fft(pack(precise(x).masked_fill(~mask[..., None], 0.0), slots), dim=2)
            cos, sin = fourier_waves(mask.sum(1), x.shape[1], channels.real.dtype)
            y = cos @ channels.real + sin @ channels.imag  # the real part of (cos - i sin)(re + i im)
        return unpack(y.to(x.dtype), slots), None
