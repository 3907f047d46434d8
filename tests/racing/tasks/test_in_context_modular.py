"""In-context modular arithmetic: solved by elimination modulo p; pairs and inputs are dealt out once, as is said."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from layersmith.racing.task import IGNORED
from layersmith.racing.tasks.in_context_modular import EXAMPLES, InContextModular
from layersmith.racing.tasks.shared.drawing import judged

from .small import draw


def solved(xyz: np.ndarray, p: int) -> tuple[int, int] | None:
    """(a, b) from the first two examples that do not depend on each other, by Cramer's rule modulo p."""
    for n in range(len(xyz)):
        for m in range(n):
            (x, y, z), (u, v, w) = xyz[m].tolist(), xyz[n].tolist()
            determinant = (x * v - y * u) % p
            if determinant:
                inverse = pow(determinant, -1, p)
                return (z * v - w * y) * inverse % p, (x * w - u * z) * inverse % p
    return None


@pytest.mark.parametrize("asks", ["unseen", "trained"])
def test_two_independent_examples_give_all_others_and_what_is_asked(asks: str) -> None:
    task = InContextModular(asks=asks, modulus=7, n_trained=20)
    pairs = {split: set() for split in ("train", "test")}
    inputs = {split: set() for split in ("train", "test")}
    for split in ("train", "test"):
        batch = draw(task, 400, split)
        for row, targets in zip(batch.inputs.numpy().reshape(400, -1, 3), batch.targets.numpy(), strict=True):
            found = solved(row, 7)
            assert found is not None
            np.testing.assert_array_equal((row[:, 0] * found[0] + row[:, 1] * found[1]) % 7, row[:, 2])
            np.testing.assert_array_equal(targets.reshape(-1, 3)[:, 1], row[:, 2])
            assert set(targets.reshape(-1, 3)[:, [0, 2]].flatten()) == {IGNORED}
            pairs[split].add(found)
            inputs[split] |= {(int(x), int(y)) for x, y, _ in row}
    assert len(pairs["train"]) == 20
    if asks == "unseen":
        assert len(pairs["test"]) == 29
        assert not pairs["train"] & pairs["test"]
    else:
        assert pairs["test"] == pairs["train"]
    assert len(inputs["train"]) == 39
    assert len(inputs["test"]) == 10
    assert not inputs["train"] & inputs["test"]


def test_rectangles_have_all_four_corners() -> None:
    trained = InContextModular(n_trained=24).pairs["trained"].tolist()
    assert len(set(trained)) == 24
    for n in range(0, 24, 4):
        four = [divmod(pair, 11) for pair in trained[n : n + 4]]
        assert len({a for a, _ in four}) == 2
        assert len({b for _, b in four}) == 2
        assert len(set(four)) == 4
    scattered = InContextModular(n_trained=24, dealt="scattered")
    firsts = Counter(pair // 11 for pair in scattered.pairs["trained"].tolist())
    assert 1 in firsts.values(), "some factor comes but once"
    both = torch.cat(list(scattered.pairs.values()))
    assert both.sort().values.tolist() == list(range(121))


def test_the_oracle_by_loops_and_what_more_the_prior_knows() -> None:
    task = InContextModular(modulus=5, n_trained=12, n_points=4)
    batch = judged(task, EXAMPLES)
    known = [divmod(pair, 5) for pair in task.pairs["unseen"].tolist()]
    right = []
    for row in batch.inputs.numpy().reshape(EXAMPLES, -1, 3):
        for n, (x, y, z) in enumerate(row.tolist()):
            fits = [(a, b) for a, b in known if all((a * u + b * v - w) % 5 == 0 for u, v, w in row[:n].tolist())]
            votes = Counter((a * x + b * y) % 5 for a, b in fits)
            # Where several answers have as many votes, each is right as often.
            best = [answer for answer, count in votes.items() if count == max(votes.values())]
            right.append((z in best) / len(best))
    found = task.yardsticks()
    assert found["oracle"] == pytest.approx(np.mean(right), abs=0.02)
    assert found["random"] < found["linear"] < found["oracle"] < 1
    more = InContextModular(modulus=5, n_trained=12, n_points=12).yardsticks()
    assert more["linear"] > found["linear"]


def test_after_independent_examples_a_vote_is_always_right() -> None:
    task = InContextModular(n_points=10)
    batch = draw(task, 100, "test")
    said, answers = task.vote(batch.inputs, torch.arange(121)), batch.targets[:, 1::3]
    for row, vote, answer in zip(batch.inputs.numpy().reshape(100, -1, 3), said, answers, strict=True):
        known = next(n for n in range(11) if solved(row[:n], 11) is not None)
        assert torch.equal(vote[known:], answer[known:])
