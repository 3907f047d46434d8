"""Bandits: LinUCB by loops and inverses says every label, learners slip as often as said, filters keep who improves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from layersmith.racing.task import IGNORED
from layersmith.racing.tasks.bandit import WIDTH, Bandit, improvement, stability

from .small import draw


def labels_by_loops(task: Bandit, row: np.ndarray) -> tuple[list[int], list[int]]:
    """What LinUCB pulls after each token that asks, and what was pulled, from one input (T, n_inputs)."""
    arms = row[: task.n_arms, : task.n_dims]
    assert (row[: task.n_arms, task.n_dims : -2] == np.eye(task.n_arms)).all()
    assert (row[: task.n_arms, -2:] == 0).all()
    precision, weighted, said, pulled = np.eye(task.n_dims), np.zeros(task.n_dims), [], []
    for token in [None, *row[task.n_arms :]]:
        if token is not None:
            pulled.append(int(token[task.n_dims : -2].argmax()))
            x = token[: task.n_dims]
            assert (x == arms[pulled[-1]]).all()
            assert token[-2] == 1
            precision += np.outer(x, x) / task.noise**2
            weighted += x * token[-1] / task.noise**2
        covariance = np.linalg.inv(precision)
        bounds = [covariance @ weighted @ x + WIDTH * np.sqrt(x @ covariance @ x) for x in arms]
        said.append(int(np.argmax(bounds)))
    return said, pulled


@pytest.mark.parametrize("imitates", ["teacher", "learner"])
def test_labels_are_lin_ucbs_by_loops_and_learners_slip_as_often_as_said(imitates: str) -> None:
    task = Bandit(imitates=imitates, n_arms=4, n_dims=2, n_steps=9, carelessness=0.8)
    for split in ("train", "test"):
        batch = draw(task, 300, split)
        slips, rates = [], []
        for row, targets in zip(batch.inputs.double().numpy(), batch.targets.tolist(), strict=True):
            said, pulled = labels_by_loops(task, row)
            assert set(targets[:3]) == {IGNORED}
            assert targets[3:-1] == (pulled if imitates == "learner" and split == "train" else said[:-1])
            if not (imitates == "learner" and split == "train"):
                assert targets[-1] == said[-1]
            slips += [one != other for one, other in zip(said[:-1], pulled, strict=True)]
            rates.append(np.mean(slips[-9:]))
        assert np.mean(slips) == pytest.approx(0.4 * 3 / 4, abs=0.04)  # a slip hits the right arm one time in four
        assert np.var(rates) > 1.3 * 0.3 * 0.7 / 9, "some learners are more careless than others"


def test_payments_are_linear_in_the_arm_and_noisy() -> None:
    task = Bandit(n_arms=6, n_dims=2, n_steps=60, noise=0.3, carelessness=1.0)
    left, weights = [], []
    for row in draw(task, 300).inputs.double().numpy():
        w, residuals, _, sizes = np.linalg.lstsq(row[6:, :2], row[6:, -1], rcond=None)
        if sizes[1] > 1:  # some learners pull one arm all the time, which says little of theta
            left.append(residuals[0] / 58)
            weights.append(w)
    assert len(left) > 150
    assert np.mean(left) == pytest.approx(0.09, rel=0.05)
    np.testing.assert_allclose(np.cov(np.array(weights).T), np.eye(2), atol=0.35)
    arms = draw(task, 2000).inputs[:, :6, :2]
    assert float(arms.abs().max()) <= 1
    assert float(arms.std()) == pytest.approx(3**-0.5, rel=0.03)


def test_the_running_posterior_is_the_closed_form() -> None:
    task = Bandit(n_dims=3, n_steps=7)
    generator = torch.Generator().manual_seed(1)
    arms, theta = task.bandits(generator, 5)
    pulls, payments = torch.randint(5, (5, 7), generator=generator), torch.randn(5, 7, generator=generator)
    mean, covariance = task.prior(5)
    for t in range(7):
        x = arms[torch.arange(5), pulls[:, t]]
        mean, covariance = task.updated(mean, covariance, x, payments[:, t])
    want = task.posterior(arms, pulls, payments)
    torch.testing.assert_close(mean, want[0])
    torch.testing.assert_close(covariance, want[1])
    assert theta.shape == (5, 3)


def test_filters_rank_rising_flat_and_restless_payments() -> None:
    rising, flat = torch.linspace(0, 1, 12), torch.full((12,), 0.5)
    falling, restless = rising.flip(0), torch.tensor([0.0] * 4 + [2.0] * 4 + [0.8] * 4)
    payments = torch.stack([rising, flat, falling, restless])
    gained, steady = improvement(payments), stability(payments)
    assert gained.argsort(descending=True).tolist() == [3, 0, 1, 2]
    assert steady[0] == steady[1] == 0
    assert steady[3] == pytest.approx(-0.6)
    assert (gained + steady).argsort(descending=True).tolist() == [0, 3, 1, 2]
    assert gained.tolist() == pytest.approx([8 / 11, 0, -8 / 11, 0.8])


def test_kept_histories_are_the_best_of_those_drawn_and_only_in_training() -> None:
    plain, picky = Bandit(imitates="learner"), Bandit(imitates="learner", kept=0.25)
    drawn, kept = draw(plain, 400), draw(picky, 100)
    payments = drawn.inputs[:, 5:, -1]
    best = (improvement(payments) + stability(payments)).argsort(descending=True)[:100].sort().values
    assert torch.equal(kept.inputs, drawn.inputs[best])
    assert torch.equal(kept.targets, drawn.targets[best])
    assert torch.equal(draw(picky, 50, "test").inputs, draw(plain, 50, "test").inputs)


def test_regret_of_policies_that_pull_by_themselves() -> None:
    task = Bandit(n_steps=30)
    regrets = {}
    for name, policy in (
        ("LinUCB", task.lin_ucb),
        ("Thompson", lambda *history: task.thompson(*history, torch.Generator().manual_seed(len(history[1][0])))),
        ("random", lambda arms, pulls, payments: torch.randint(5, (len(arms),))),
    ):
        with torch.random.fork_rng():
            regrets[name] = task.rolled_out(policy, torch.Generator().manual_seed(3), 400)
        assert regrets[name].shape == (400, 30)
        assert float(regrets[name].min()) >= 0
    total = {name: float(each.sum(1).mean()) for name, each in regrets.items()}
    assert total["LinUCB"] < 0.5 * total["random"]
    assert total["Thompson"] < 0.5 * total["random"]
    assert float(regrets["LinUCB"][:, -5:].mean()) < 0.4 * float(regrets["LinUCB"][:, :3].mean())
    found = task.yardsticks()
    assert found["oracle"] == pytest.approx(1.0, abs=1e-3)
    assert found["random"] < min(found["Thompson"], found["linear"])
    assert max(found["Thompson"], found["linear"]) < 0.95
