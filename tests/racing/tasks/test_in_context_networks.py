"""In-context networks: the same draws through a network written as loops; scales; the linear share."""

from __future__ import annotations

import pytest
import torch

from layersmith.racing.tasks.in_context_networks import InContextNetworks
from layersmith.racing.tasks.shared.examples import parted

from .small import draw


def test_labels_are_those_of_the_drawn_network() -> None:
    task = InContextNetworks(n_dims=3, n_hidden=4, n_points=5)
    xs, ys = parted(draw(task, 2, seed=3).inputs)
    generator = torch.Generator().manual_seed(3)
    inner = torch.randn(2, 3, 4, generator=generator).tolist()
    outer = torch.randn(2, 4, 1, generator=generator).tolist()
    for b in range(2):
        for n in range(5):
            x = xs[b, n].tolist()
            hidden = [max(0.0, sum(x[i] * inner[b][i][h] for i in range(3))) for h in range(4)]
            y = sum(hidden[h] * outer[b][h][0] for h in range(4)) * (2 / 12) ** 0.5
            assert float(ys[b, n]) == pytest.approx(y, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(("dims", "hidden"), [(2, 1), (6, 12)])
def test_labels_have_mean_0_and_variance_1(dims: int, hidden: int) -> None:
    _, ys = parted(draw(InContextNetworks(dims, hidden, n_points=4), 40_000).inputs)
    assert float(ys.mean()) == pytest.approx(0, abs=0.03)
    assert float(ys.double().square().mean()) == pytest.approx(1, abs=0.1)


def test_linear_predictors_gain_something_and_far_from_all() -> None:
    found = InContextNetworks(n_dims=4, n_hidden=8, n_points=32).yardsticks()
    assert 0.3 < found["linear"] < 0.9
    assert found["linear"] < found["least squares"]
