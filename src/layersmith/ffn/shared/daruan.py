"""DARUAN: a univariate function that is what a one-qubit circuit would measure when x is loaded into it r times.

    phi(x) = <psi| Z |psi>,
    |psi> = Ry(t_r1) Rz(t_r0) [ Rz(w_l x) Ry(t_l1) Rz(t_l0) ]_(l = r-1 ... 0) H |0>      (l = 0 acts first)

A qubit's state is a point on a sphere, H|0> = (1, 0, 0), and a gate turns it: Rz about the z axis, Ry about the y axis;
phi is the height z. So the exact value takes real arithmetic on three numbers, no complex matrices, and |phi| <= 1. As
a function of x it is a trigonometric polynomial with the frequencies |w_0 +- w_1 +- ...|: with all w = 1 up to r,
with w_l = 2^l up to 2^r - 1.

Shapes: x (..., C) -> (..., C, K), K circuits of each channel; t (C, K, r + 1, 2), w (C, K, r). Any finite x gives a
value in [-1, 1]; there is no grid to leave.

Paper: Jiang et al. 2025, "Quantum Variational Activation Functions Empower Kolmogorov-Arnold Networks",
arXiv 2509.14026. Confirmed in the authors' code (Jim137/qkan, "pz_encoding"): the order of the gates, shapes, w = 1 and
Xavier-normal angles at the start.
Differs from the paper: its bias b_l of the loaded angle is part of t_(l+1)0, which turns about the same axis. The
authors' code by default returns |a| - |b| of the state (a, b) ("fast_measure"); this is |a|^2 - |b|^2, the paper's.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.ffn.shared.kan_basis import widened


class Daruan(nn.Module):
    """K circuits for each of C channels; `reps` is r, the number of times x is loaded."""

    def __init__(self, channels: int, circuits: int, reps: int):
        super().__init__()
        self.size = circuits
        self.angles = nn.Parameter(torch.empty(channels, circuits, reps + 1, 2))
        self.weights = nn.Parameter(torch.ones(channels, circuits, reps))
        nn.init.xavier_normal_(self.angles)

    def forward(self, x: Tensor) -> Tensor:
        x = widened(x)[..., None]
        t, w = self.angles.to(x.dtype), self.weights.to(x.dtype)
        # The state after the first Rz; later ones join the loaded angle, which turns about the same axis.
        a, b, c = t[..., 0, 0].cos(), t[..., 0, 0].sin(), torch.zeros_like(t[..., 0, 0])
        for step in range(w.shape[-1]):
            a, c = _turned(c, a, t[..., step, 1])
            angle = x * w[..., step] + t[..., step + 1, 0]
            b, a = _turned(a, b, angle)
        a, c = _turned(c, a, t[..., -1, 1])
        return c

    @torch.no_grad()
    def extended(self, reps: int) -> Daruan:
        """The same functions with more repetitions: the added ones start as doing nothing."""
        channels, circuits, old = self.weights.shape
        if reps <= old:
            raise ValueError(f"Daruan: reps={reps} must be more than the {old} there are.")
        longer = Daruan(channels, circuits, reps).to(self.angles)
        longer.angles.zero_()[:, :, : old + 1] = self.angles
        longer.weights.zero_()[:, :, :old] = self.weights
        return longer


def _turned(first: Tensor, second: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The coordinates (second', first') after a turn that takes the first axis towards the second."""
    sine, cosine = angle.sin(), angle.cos()
    return second * cosine + first * sine, first * cosine - second * sine
