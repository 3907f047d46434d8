"""The linear yardstick against least squares in which the penalty is further examples."""

from __future__ import annotations

import numpy as np
import torch

from layersmith.racing.tasks.shared.linear_map import linear_map


def test_it_is_least_squares_with_the_penalty_as_further_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    xs = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    ys = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    rows = np.vstack([xs.numpy(), np.sqrt(0.7) * np.eye(4)]), np.vstack([ys.numpy(), np.zeros((4, 2))])
    np.testing.assert_allclose(linear_map(xs, ys, 0.7).numpy(), np.linalg.lstsq(*rows, rcond=None)[0], rtol=1e-9)


def test_a_feature_that_never_varies_gets_no_weight() -> None:
    xs = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    found = linear_map(xs, 2 * xs[:, :1], 1e-9)
    torch.testing.assert_close(found, torch.tensor([[2.0], [0.0]], dtype=torch.float64))
