"""Drawing digits: the mixture is what it says, the oracle is a mean over pictures, and drawings are judged rightly."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.tasks.generation import WAVES, Generation
from layersmith.racing.tasks.shared.frechet import frechet

from .small import draw


def test_a_picture_stands_between_noise_and_a_digit() -> None:
    task = Generation(data="drawn", drop=0.25)
    batch = draw(task, 4000)
    z, t = batch.inputs[..., :4], batch.inputs[:, :1, 4:5]
    assert batch.inputs[..., 4].equal(t[..., 0].expand(-1, 16)), "one time for all patches"
    noise, x = z - t * batch.targets, z + (1 - t) * batch.targets
    assert float(noise.std()) == pytest.approx(1, rel=0.02)
    known = {tuple(row) for row in task.examples("train", held=False)[0].flatten(1).round(decimals=2).tolist()}
    late = [row for row, time in zip(x.flatten(1), t[:, 0, 0], strict=True) if time > 0.5]
    assert all(tuple(row.round(decimals=2).tolist()) in known for row in late[:20])
    told = batch.inputs[:, 0, 5 + WAVES :][:, :10]
    assert float(told.any(1).float().mean()) == pytest.approx(0.75, abs=0.03)
    assert batch.inputs[0, :, -16:].equal(torch.eye(16))


def test_held_classes_are_not_trained_on_and_are_what_is_asked() -> None:
    task = Generation(data="drawn", drop=0.0, held=4)
    told = draw(task, 500).inputs[:, 0, 5 + WAVES :][:, :10]
    assert set(told.argmax(1).tolist()) == set(range(6))
    assert set(task.asked("test")[1].tolist()) == {6, 7, 8, 9}
    assert set(Generation(data="drawn").asked("test")[1].tolist()) == set(range(10))


def test_the_oracle_is_the_mean_over_all_pictures_it_may_have_been() -> None:
    task = Generation(data="drawn", drop=0.5)
    batch = draw(task, 12, "test", seed=3)
    pictures, labels = (x.numpy() for x in task.examples("test", held=False))
    for inputs, found in zip(batch.inputs.double().numpy(), task.best(batch.inputs).numpy(), strict=True):
        z, t, told = inputs[:, :4], inputs[0, 4], inputs[0, 5 + WAVES :][:10]
        total, weights = np.zeros_like(z), 0.0
        logs = []
        for x, label in zip(pictures, labels, strict=True):
            n = (z - t * x) / (1 - t)
            logs.append(-0.5 * (n**2).sum() if not told.any() or told[label] else -np.inf)
        for x, log in zip(pictures, logs, strict=True):
            weight = np.exp(log - max(logs))
            total, weights = total + weight * (x - (z - t * x) / (1 - t)), weights + weight
        np.testing.assert_allclose(found, total / weights, rtol=1e-4, atol=1e-4)


def test_the_distance_is_that_of_two_normal_distributions() -> None:
    random = np.random.default_rng(0)
    a, b = random.normal(size=(400, 6)) @ random.normal(size=(6, 6)), random.normal(size=(300, 6)) + 0.5
    c1, c2 = np.cov(a.T, ddof=0), np.cov(b.T, ddof=0)
    crossed = np.sqrt(np.linalg.eigvals(c1 @ c2).real).sum()
    want = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1) + np.trace(c2) - 2 * crossed
    assert frechet(torch.tensor(a), torch.tensor(b)) == pytest.approx(want, rel=1e-8)
    assert frechet(torch.tensor(b), torch.tensor(b)) == pytest.approx(0, abs=1e-9)
    moved = frechet(torch.tensor(b) + torch.tensor([3.0, 0, 0, 0, 0, 4.0]), torch.tensor(b))
    assert moved == pytest.approx(25, rel=1e-8)
    assert frechet(torch.full((4, 6), torch.nan), torch.tensor(b)) == float("inf")


def test_drawings_are_read_by_their_nearest_picture() -> None:
    task = Generation(data="drawn", sampler="plain", measure="read")
    pictures, labels = task.asked("train")
    assert task.judge(pictures, labels) == 1.0
    assert task.judge(pictures, (labels + 1) % 10) == 0.0
    assert (task.metric, task.higher_is_better) == ("share of drawings read as asked", True)
    assert task.yardsticks() == {"random": 0.1, "real": 1.0}


def test_noise_is_far_from_digits_and_digits_are_near() -> None:
    found = Generation(data="drawn", sampler="plain").yardsticks()
    assert found["real"] < 0.02 * found["random"]
    other = Generation(data="drawn", sampler="plain", held=5)
    shown = other.examples("train", held=False)
    assert other.judge(*shown) > 10 * other.yardsticks()["real"], "other digits are not those that are asked for"
