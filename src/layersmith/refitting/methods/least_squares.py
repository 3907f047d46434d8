"""Closed-form fits shared by the methods: ridge regression and its low-rank form, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ridge(x: Tensor, y: Tensor, strength: float = 1e-3, bias: bool = True) -> tuple[Tensor, Tensor]:
    """The affine map that predicts y from x: returns W (d_out, d_in) and b (d_out).

    Minimises ||x W^T + b - y||^2 + strength * mean(diag(x^T x)) * ||W||^2. x: (tokens, d_in), y: (tokens, d_out).
    """
    x64, y64 = x.double(), y.double()
    x_mean = x64.mean(0) if bias else x64.new_zeros(x.shape[1])
    y_mean = y64.mean(0) if bias else y64.new_zeros(y.shape[1])
    centred = x64 - x_mean
    weight = ridge_from_moments(centred.T @ centred, centred.T @ (y64 - y_mean), strength)
    return weight.to(x.dtype), (y_mean - weight @ x_mean).to(x.dtype)


@torch.no_grad()
def fit_linear(linear: nn.Linear, x: Tensor, y: Tensor, strength: float = 1e-3) -> None:
    """Set weight and (if there is one) bias to the ridge fit of y (tokens, d_out) from x (tokens, d_in)."""
    weight, bias = ridge(x, y, strength, bias=linear.bias is not None)
    linear.weight.copy_(weight)
    if linear.bias is not None:
        linear.bias.copy_(bias)


def ridge_from_moments(gram: Tensor, cross: Tensor, strength: float = 1e-3) -> Tensor:
    """W (d_out, d_in) from X^T X (d_in, d_in) and X^T Y (d_in, d_out), float64 throughout."""
    gram, cross = gram.double(), cross.double()
    damp = strength * gram.diagonal().mean().clamp_min(1e-12)
    system = gram + damp * torch.eye(gram.shape[0], dtype=torch.float64, device=gram.device)
    return torch.linalg.solve(system, cross).T


def positive(gram: Tensor, damp: float = 1e-6) -> Tensor:
    """X^T X + damp * its mean diagonal on the diagonal, float64: what has a Cholesky factor.

    A gram of fewer inputs than its width is singular, and what was added up in 32 bits may then be negative in some
    direction by as much as the rounding of its largest eigenvalue. The diagonal gets at least that.
    """
    rounding = 4 * torch.finfo(torch.float32).eps * len(gram) if gram.dtype == torch.float32 else 0.0
    wide = gram.double()
    least = max(damp, rounding) * wide.diagonal().mean().clamp_min(1e-12)
    return wide + least * torch.eye(len(gram), dtype=wide.dtype, device=wide.device)


def mixture(columns: list[Tensor], target: Tensor) -> Tensor:
    """The scalars c (K,) with sum_k c_k columns_k nearest to target, all K tensors being of its shape; in float64."""
    design = torch.stack([c.double().flatten() for c in columns], dim=1)
    moments = design.T @ target.double().flatten()[:, None]
    return torch.linalg.lstsq(design.T @ design, moments).solution[:, 0]


def reduced_rank(x: Tensor, y: Tensor, rank: int, strength: float = 1e-3) -> tuple[Tensor, Tensor, Tensor]:
    """The best affine map of rank r: y ~ x D^T U^T + b. Returns U (d_out, r), D (r, d_in), b (d_out).

    Reduced-rank regression: the full ridge map, projected on the leading principal directions of its predictions.
    """
    weight, _ = ridge(x, y, strength)
    centred = (x - x.mean(0)).double()
    predictions = centred @ weight.double().T
    _, vectors = torch.linalg.eigh(predictions.T @ predictions)
    up = vectors[:, -rank:].flip(1)
    down = up.T @ weight.double()
    constant = y.double().mean(0) - up @ (down @ x.double().mean(0))
    return up.to(x.dtype), down.to(x.dtype), constant.to(x.dtype)
