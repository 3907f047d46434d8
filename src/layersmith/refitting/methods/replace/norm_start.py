"""What the methods that replace one norm by another share: the old norm's eps, and the fit of a gain and a bias."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.refitting.view import SublayerView


def eps_of(view: SublayerView, default: float = 1e-5) -> float:
    """The eps of the norm at the site, by the names it has in torch and in transformers."""
    norm: Any = view.original
    found = getattr(norm, "eps", getattr(norm, "variance_epsilon", None))
    return float(found) if isinstance(found, float) else default


@torch.no_grad()
def fit_gain_and_bias(normed: Tensor, y: Tensor, bias: bool = True) -> tuple[Tensor, Tensor]:
    """Per channel, the least-squares gain and bias with gain * normed + bias ~ y; (tokens, D) -> twice (D,)."""
    n, target = normed.double(), y.double()
    n_mean = n.mean(0) if bias else torch.zeros_like(n[0])
    y_mean = target.mean(0) if bias else torch.zeros_like(n[0])
    gain = ((n - n_mean) * (target - y_mean)).mean(0) / (n - n_mean).square().mean(0).clamp_min(1e-12)
    return gain.to(y.dtype), (y_mean - gain * n_mean).to(y.dtype)
