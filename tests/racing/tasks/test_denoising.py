"""Flow matching: the points are what they say, and the oracle is the mean over all that could have been, by draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.denoising import RADIUS, Denoising

from .small import draw


def test_a_point_stands_on_its_way_from_noise_to_its_class() -> None:
    task = Denoising(tokens=5, n_classes=4, spread=0.1, drop=0.0)
    batch = draw(task, 3000)
    z, t, classes = batch.inputs[..., :2], batch.inputs[..., 2:3], batch.inputs[..., 3:]
    assert t.equal(t[:, :1].expand_as(t)), "one t for all points of an example"
    assert classes.sum(-1).eq(1).all()
    start, end = z - t * batch.targets, z + (1 - t) * batch.targets
    angles = 2 * np.pi * classes.argmax(-1).numpy() / 4
    means = RADIUS * np.stack([np.cos(angles), np.sin(angles)], -1)
    away = end.numpy() - means
    assert away.std() == pytest.approx(0.1, rel=0.03)
    assert abs(away.mean()) < 0.01
    assert float(start.std()) == pytest.approx(1, rel=0.03)
    assert float(t[:, 0].mean()) == pytest.approx(0.5, abs=0.03)


def test_what_is_not_told_is_not_there() -> None:
    batch = draw(Denoising(told=False, drop=0.3), 4000)
    assert batch.inputs[..., 2].eq(0).all()
    seen = batch.inputs[..., 3:].any(-1)
    assert seen.equal(seen[:, :1].expand_as(seen))
    assert float(seen[:, 0].float().mean()) == pytest.approx(0.7, abs=0.03)


@pytest.mark.parametrize("epsilon", [0.0, 2.0])
@pytest.mark.parametrize("told", [True, False])
def test_the_oracle_is_the_mean_over_a_million_draws_that_end_nearby(told: bool, epsilon: float) -> None:
    """One point of unknown class: v of all draws whose z is close to it, weighted as the task does."""
    task = Denoising(tokens=1, n_classes=3, spread=0.5, told=told, drop=1.0, epsilon=epsilon)
    random, count = np.random.default_rng(0), 2_000_000
    angles = 2 * np.pi * random.integers(3, size=count) / 3
    end = RADIUS * np.stack([np.cos(angles), np.sin(angles)], -1) + 0.5 * random.normal(size=(count, 2))
    start = random.normal(size=(count, 2))
    t = np.full((count, 1), 0.4) if told else random.random((count, 1))
    z, v = (1 - t) * start + t * end, end - start
    weights = np.exp(-(v**2).sum(1) / (2 * epsilon)) if epsilon else np.ones(count)
    for place in ((0.5, 0.2), (-0.4, 0.6)):
        near = ((z - place) ** 2).sum(1) < 0.1**2
        want = (weights[near, None] * v[near]).sum(0) / weights[near].sum()
        asked = torch.zeros(1, 1, task.n_inputs)
        asked[0, 0, :3] = torch.tensor([*place, 0.4 if told else 0.0])
        np.testing.assert_allclose(task.best(asked)[0, 0].numpy(), want, atol=0.06)


def test_a_known_class_and_no_spread_tell_all() -> None:
    """v = (m - z) / (1 - t) where the data of a class are one point."""
    task = Denoising(tokens=3, n_classes=2, spread=0.01, drop=0.0)
    batch = draw(task, 200, "test")
    t = batch.inputs[..., 2:3]
    early = (t < 0.8).expand(-1, -1, 2)
    torch.testing.assert_close(task.best(batch.inputs).float()[early], batch.targets[early], atol=0.15, rtol=0.05)


def test_many_points_tell_the_time_and_few_do_not() -> None:
    lost = []
    for tokens in (1, 16):
        told, untold = (Denoising(tokens=tokens, told=told).yardsticks()["oracle"] for told in (True, False))
        lost.append((untold - told) / told)
    assert lost[0] > 5 * max(lost[1], 0.002)


def test_weights_that_hardly_differ_are_none() -> None:
    plain, weighted = Denoising(), Denoising(epsilon=1e6)
    a, b = draw(plain, 50), draw(weighted, 50)
    assert a.inputs.equal(b.inputs)
    outputs = torch.randn(a.targets.shape, generator=torch.Generator().manual_seed(0))
    assert float(plain.loss(outputs, a)) == pytest.approx(float(weighted.loss(outputs, b)), rel=1e-4)
    torch.testing.assert_close(plain.best(a.inputs), weighted.best(b.inputs), rtol=1e-3, atol=1e-3)


def test_short_ways_count_more_by_their_cost() -> None:
    task, batch = Denoising(tokens=2, epsilon=0.5), draw(Denoising(tokens=2), 3)
    outputs = torch.zeros_like(batch.targets)
    rows = batch.targets.flatten(0, 1).double().tolist()
    weights = [np.exp(-(x * x + y * y) / (2 * 0.5)) for x, y in rows]
    want = sum(w * (x * x + y * y) / 2 for w, (x, y) in zip(weights, rows, strict=True)) / sum(weights)
    assert float(task.loss(outputs, batch)) == pytest.approx(want, rel=1e-5)
