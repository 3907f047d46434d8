"""The linear yardstick: the linear map from what is shown to what is asked that fits the training examples best."""

from __future__ import annotations

import torch
from torch import Tensor


def linear_map(xs: Tensor, ys: Tensor, penalty: float) -> Tensor:
    """W (d_in, d_out) with the least |xs W - ys|^2 + penalty |W|^2; xs (n, d_in) and ys (n, d_out), all float64.

    The penalty is above 0 and small: features that never vary make the squares alone singular.
    """
    return torch.linalg.solve(xs.T @ xs + penalty * torch.eye(xs.shape[1]).double(), xs.T @ ys)
