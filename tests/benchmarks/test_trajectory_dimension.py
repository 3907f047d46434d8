"""How many dimensions a path has: what is known of random walks, straight lines and steps that commute."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from layersmith.racing.tasks import build_task

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("trajectory_dimension")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_random_walks_have_the_spectrum_of_brownian_motion(benchmark: ModuleType) -> None:
    """Variances fall as 1 / k^2, of which 6 / pi^2 is the first share and 5/2 the participation ratio."""
    places = torch.randn(100, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ways = dict(benchmark.paths(places, torch.Generator().manual_seed(1)))
    found = benchmark.described(ways["random walk"])
    assert found["participation"] == pytest.approx(2.5, rel=0.05)
    assert found["first"] == pytest.approx(6 / math.pi**2, rel=0.03)
    assert found["first_four"] == pytest.approx(6 / math.pi**2 * (1 + 1 / 4 + 1 / 9 + 1 / 16), rel=0.03)
    assert found["components"] in (5, 6)
    lengths = {way: path.diff(dim=0).norm(dim=1).mean() for way, path in ways.items()}
    torch.testing.assert_close(lengths["random walk"], lengths["training"])
    torch.testing.assert_close(lengths["steps in random order"], lengths["training"])
    torch.testing.assert_close(ways["steps in random order"][-1], ways["training"][-1])


def test_a_straight_line_has_one_dimension_and_its_direction(benchmark: ModuleType) -> None:
    line = torch.linspace(0, 1, 50, dtype=torch.float64)[:, None] * torch.tensor([3.0, 0.0, 4.0, 0.0]).double()
    found = benchmark.described(line)
    assert (found["components"], found["participation"]) == (1, pytest.approx(1))
    first = benchmark.directions(line)[0]
    torch.testing.assert_close(first.abs(), torch.tensor([0.6, 0.0, 0.8, 0.0]).double())


def test_steps_of_a_quadratic_commute_as_their_matrices_say(benchmark: ModuleType) -> None:
    """A linear model under squared errors: A before B differs from B before A by step^2 (H_B g_A - H_A g_B)."""
    task = build_task("in_context_regression", {"n_dims": 2, "n_points": 3})
    model = torch.nn.Linear(3, 1, bias=False).double()
    generator = torch.Generator().manual_seed(0)
    batches = [task.batch(generator, 5) for _ in range(2)]
    batches = [type(b)(b.inputs.double(), b.targets.double()) for b in batches]
    start = torch.tensor([0.5, -1.0, 2.0]).double()
    forth, back = (benchmark.stepped(model, task, start, order) for order in (batches, batches[::-1]))
    parts = []
    for batch in batches:
        x, y = batch.inputs[:, 0::2].flatten(0, 1), batch.targets[:, 0::2].flatten()
        parts.append((2 * x.T @ x / len(y), 2 * x.T @ (x @ start - y) / len(y)))
    (h_a, g_a), (h_b, g_b) = parts
    torch.testing.assert_close(forth - back, benchmark.SMALL**2 * (h_b @ g_a - h_a @ g_b))
