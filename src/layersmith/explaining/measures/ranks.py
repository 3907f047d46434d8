"""How many directions of its space a set of vectors uses, from the eigenvalues l of its covariance; p = l / sum l.

    hard rank   (sum l)^2 / sum l^2, the participation ratio
    soft rank   exp(-sum p log p)

Both are r for r equally strong directions; hard <= soft <= the width.

Paper: "Spectral Scaling Laws in Language Models: How Effectively Do Feed-Forward Networks Use Their Latent Space?",
for the hidden vectors of feed-forwards. Its composite index is not computed here.
"""

from __future__ import annotations

import torch
from torch import Tensor


def eigenvalues(rows: Tensor) -> Tensor:
    """Of the covariance of rows (N, D), min(N, D) of them, float64; what rounding made negative is 0."""
    centred = rows.double() - rows.double().mean(0)
    gram = centred.T @ centred if len(centred) >= centred.shape[1] else centred @ centred.T
    return torch.linalg.eigvalsh(gram).clamp_min(0) / max(len(centred), 1)


def hard_rank(values: Tensor) -> float:
    """The participation ratio of eigenvalues; 0 where all are 0."""
    return float(values.sum().square() / values.square().sum().clamp_min(1e-300))


def soft_rank(values: Tensor) -> float:
    """exp of the entropy of eigenvalues; 0 where all are 0."""
    total = values.sum()
    return float(torch.special.entr(values / total).sum().exp()) if total > 0 else 0.0
