"""A norm as what it is to a token: a linear map, once the scale of the token is held.

    norm(x) = gain * c(x) / s(x) + shift          c the centring of a LayerNorm, nothing for an RMSNorm

Gain, shift and c are read off answers of the norm itself, whatever its class; where that does not give its answers it
is neither of the two.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Relative error up to which the reading counts as the norm in float32.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class LinearNorm:
    """gain (D,), shift (D,) of a norm; `centres` says whether it subtracts the mean."""

    module: nn.Module
    gain: Tensor
    shift: Tensor
    centres: bool

    def scales(self, x: Tensor) -> Tensor:
        """1 / s at every token of x (..., D): (...,)."""
        ideal = self.gain * self.centred(x)
        return ((self.module(x) - self.shift) * ideal).sum(-1) / ideal.square().sum(-1).clamp_min(1e-30)

    def centred(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.centres else x

    def part(self, part: Tensor, scales: Tensor) -> Tensor:
        """What a part (..., D) of x gives, without the shift, at the scales of x."""
        return self.gain * self.centred(part) * scales[..., None]


def linear_norm(norm: nn.Module, x: Tensor) -> LinearNorm | None:
    """The norm as read off its answers to probes and to x (B, T, D); None where it is no LayerNorm and no RMSNorm."""
    probe = _probe(x.shape[-1]).to(x)
    shift = norm(torch.zeros_like(probe)[None, None])[0, 0]
    gain = (norm(1e4 * probe[None, None])[0, 0] - shift) * probe.square().mean().sqrt() / probe
    moved = norm(x[:1, :2] + 1.0)
    centres = bool(torch.allclose(moved, norm(x[:1, :2]), rtol=1e-2, atol=1e-2))
    found = LinearNorm(norm, gain, shift, centres)
    expected = norm(x)
    wrong = found.part(x, found.scales(x)) + shift - expected
    return found if float(wrong.norm()) <= TOLERANCE * float(expected.norm()) else None


def _probe(width: int) -> Tensor:
    """(D,) of mean 0 without a zero in it: a norm's answer to it shows the norm's weights."""
    values = [1.0, -1.0] * (width // 2)
    return torch.tensor(values if width % 2 == 0 else [*values[:-2], 1.0, 1.0, -2.0])
