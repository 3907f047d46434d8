"""Dynamic spectrum mixer: the cosine transform of a grid of tokens, its bands weighted by what the input calls for.

    X = C_H x C_W^T                                       orthonormal DCT-II over rows and columns
    w = 1 + W_2 gelu(W_1 mean(x) + b_1) + b_2             (bands, D): one weight for each band and channel
    y = C_H^T (w_band(i, j) * X_ij) C_W

Frequency (i, j) lies in band floor(bands * max(i / H, j / W)): squares around the mean of the grid, the low frequencies
first. With W_2 and b_2 at zero, as at the start, y = x. Transforms are matrix products: N (H + W) multiplications a
channel instead of N log N, and faster on grids of a few hundred places.

Shapes: x (B, T, D), tokens in row-major order -> X (B, H, W, D) -> y (B, T, D). Not causal, no state.

Paper: "Dynamic Spectrum Mixer for Visual Recognition" (cosine transform, bands, weights from pooled features; the
bands' shape and the network of the weights are from memory, not confirmed in code).
Differs from the paper: the weights start at one.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.grid import GridMixer
from layersmith.mixer.shared.spectral import cosine_transform


class DynamicSpectrum(GridMixer):
    """Input-dependent weights on bands of frequencies.

    d_model, d_hidden   widths of the residual stream and of the hidden layer that makes the weights
    grid                [rows, columns] that the tokens come from
    bands               how many
    """

    name = "dynamic_spectrum"

    def __init__(self, d_model: int, grid: list[int], d_hidden: int, bands: int = 4):
        super().__init__(d_model, grid, axes=2)
        require_positive(DynamicSpectrum, d_hidden=d_hidden, bands=bands)
        self.bands = bands
        self.up, self.down = nn.Linear(d_model, d_hidden), nn.Linear(d_hidden, bands * d_model)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def mix(self, field: Tensor, real: Tensor | None) -> Tensor:
        places = field if real is None else field * real
        count = field.shape[1] * field.shape[2] if real is None else real.sum((1, 2)).clamp_min(1)
        mean = places.sum((1, 2)) / count
        weights = 1 + self.down(F.gelu(self.up(mean.to(field.dtype)))).unflatten(1, (self.bands, -1))
        with full_precision(field):
            rows, columns = (self._transform(n, field) for n in self.grid)
            spectrum = torch.einsum("ih,bhwd,jw->bijd", rows, precise(field), columns)
            spectrum = spectrum * precise(weights)[:, self._band(field.device)]
            return torch.einsum("ih,bijd,jw->bhwd", rows, spectrum, columns).to(field.dtype)

    def _transform(self, n: int, like: Tensor) -> Tensor:
        return cosine_transform(torch.full((1,), n, device=like.device), n, precise(like[:0]).dtype)[0]

    def _band(self, device: torch.device) -> Tensor:
        """(H, W): in which band each frequency lies."""
        rows, columns = (torch.arange(n, device=device) * self.bands // n for n in self.grid)
        return torch.maximum(rows[:, None], columns)
