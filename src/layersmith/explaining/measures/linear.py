"""How linear a map is, judged by its inputs and outputs.

    linearity    R^2 of the best affine map:  1 - ||Y - (X A + b)||^2 / ||Y - mean Y||^2, on rows it was not fitted to
    procrustes   (sum of singular values of X~^T Y~)^2, with X~ and Y~ centred and of Frobenius norm 1: 1 exactly where
                 Y is X turned, scaled and moved

Paper: arXiv 2405.12250, "Your Transformer is Secretly Linear", scores consecutive hidden states by the first, on the
rows of the fit itself; there a wide stream and few rows score high whatever the block does, so a quarter is kept aside.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.explaining.floors import ridge

#: Only against singular inputs: a hundredth of what the floors take.
STRENGTH = 1e-6


def linearity(x: Tensor, y: Tensor) -> float:
    """R^2 of the best affine map on the last quarter of the rows, fitted to the others. x (N, d_in), y (N, d_out).

    At most 1; below 0 where the map predicts worse than the mean does (few rows for the width).
    """
    x, y = x.double(), y.double()
    held = len(x) * 3 // 4
    weight, bias = ridge(x[:held], y[:held], STRENGTH)
    wrong = (y[held:] - x[held:] @ weight.T - bias).square().sum()
    spread = (y[held:] - y[held:].mean(0)).square().sum()
    return float(1 - wrong / spread.clamp_min(1e-30))


def procrustes(x: Tensor, y: Tensor) -> float:
    """Similarity in [0, 1] of two sets of rows (N, D) up to rotation, scale and shift."""
    x, y = (t.double() - t.double().mean(0) for t in (x, y))
    length = torch.linalg.matrix_norm(x) * torch.linalg.matrix_norm(y)
    return float((torch.linalg.svdvals(x.T @ y).sum() / length.clamp_min(1e-30)).square())
