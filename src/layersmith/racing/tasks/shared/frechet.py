"""How far drawn pictures are from real ones, as two normal distributions in the plane where real ones differ most.

    d = |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2))        means and covariances of principal components

Paper: Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium", arXiv
1706.08500.
Differs from the paper: principal components of the pixels, where the paper takes features of a trained network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Principal components that are compared, at most.
COMPONENTS = 20


def frechet(drawn: Tensor, real: Tensor) -> float:
    """The distance between rows (n, pixels) and rows (m, pixels), 0 where means and covariances are the same."""
    if not drawn.isfinite().all():
        return math.inf
    drawn, real = drawn.double(), real.double()
    middle = real.mean(0)
    axes = torch.linalg.svd(real - middle, full_matrices=False).Vh[:COMPONENTS].T
    (m1, c1), (m2, c2) = (_moments((rows - middle) @ axes) for rows in (drawn, real))
    root = _root(c1)
    crossed = torch.linalg.eigvalsh(root @ c2 @ root).clamp_min(0).sqrt().sum()
    return float((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * crossed)


def _moments(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.mean(0), torch.cov(rows.T, correction=0)


def _root(matrix: Tensor) -> Tensor:
    """Of a matrix that is symmetric and not negative."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T
