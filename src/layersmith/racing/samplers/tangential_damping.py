"""Tangential damping: guidance starts from the part of the unconditional answer that agrees with the conditional one.

    [v_none; v_class] = U S V^T  of one picture, 2 x pixels;     v_none' = v_none V_1 V_1^T
    v = v_none' + guidance (v_class - v_none')

V_1 is the first right singular vector. Of two rows it is a combination cos(a) v_none + sin(a) v_class with
tan(2 a) = 2 v_none . v_class / (|v_none|^2 - |v_class|^2), so that no decomposition is computed.

Paper: "TCFG: Tangential Damping Classifier-free Guidance", arXiv 2503.18137 (that the second vector is dropped:
confirmed in two public implementations).
Differs from the paper: velocities of flow matching, where the paper has scores or noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.racing.samplers.sampler import Sampler


class TangentialDamping(Sampler):
    def both(self, model: nn.Module, untold: Tensor, told: Tensor, step: int) -> tuple[Tensor, Tensor]:
        none, named = super().both(model, untold, told, step)
        return damped(none, named), named


def damped(none: Tensor, named: Tensor) -> Tensor:
    """The projection of `none` (B, T, p) on the first singular vector of both, picture by picture."""
    u, c = none.flatten(1), named.flatten(1)
    uu, uc, cc = ((a * b).sum(1, keepdim=True) for a, b in ((u, u), (u, c), (c, c)))
    angle = torch.atan2(2 * uc, uu - cc) / 2
    axis = angle.cos() * u + angle.sin() * c
    length = axis.square().sum(1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
    return ((u * axis).sum(1, keepdim=True) / length * axis).reshape(none.shape)
