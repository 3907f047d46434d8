"""In-context Boolean functions: a search through the class, in plain Python, finds what fits and what most say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, product

import pytest

from layersmith.racing.task import IGNORED
from layersmith.racing.tasks.in_context_boolean import KINDS, InContextBoolean
from layersmith.racing.tasks.shared.examples import parted

from .small import draw

Function = Callable[[list[bool]], bool]


def functions(kind: str, dims: int, k: int) -> Iterator[Function]:
    for places in combinations(range(dims), k):
        if kind == "parity":
            yield lambda x, places=places: sum(x[p] for p in places) % 2 == 1
        elif kind == "majority":
            yield lambda x, places=places: sum(x[p] for p in places) > k / 2
        else:
            together = all if kind == "conjunction" else any
            for signs in product([False, True], repeat=k):
                yield lambda x, places=places, signs=signs, together=together: together(
                    x[p] == sign for p, sign in zip(places, signs, strict=True)
                )


def small(kind: str) -> InContextBoolean:
    return InContextBoolean(kind, n_dims=4, relevant=3 if kind == "majority" else 2, n_points=6)


@pytest.mark.parametrize("kind", KINDS)
def test_some_function_of_the_class_fits_and_the_oracle_says_what_most_say(kind: str) -> None:
    task = small(kind)
    batch = draw(task, 60)
    xs, ys = parted(batch.inputs)
    vote = task.vote(xs, ys).tolist()
    for row, labels, said, targets in zip(xs.tolist(), ys.tolist(), vote, batch.targets.tolist(), strict=True):
        assert {abs(value) for x in row for value in x} | {abs(value) for value in labels} == {1.0}
        bits, truth = [[value > 0 for value in x] for x in row], [value > 0 for value in labels]
        assert targets[0::2] == [int(value) for value in truth]
        assert set(targets[1::2]) == {IGNORED}
        left = list(functions(kind, task.n_dims, task.relevant))
        for x, label, answer in zip(bits, truth, said, strict=True):
            yes = sum(f(x) for f in left)
            if 2 * yes != len(left):
                assert answer == (2 * yes > len(left))
            left = [f for f in left if f(x) == label]
        assert left, "no function of the class fits"


@pytest.mark.parametrize("kind", KINDS)
def test_constant_is_how_often_the_label_is_the_likelier_one(kind: str) -> None:
    task = small(kind)
    labels = draw(task, 4000).targets[:, 0::2].double()
    yes = float(labels.mean())
    assert task.yardsticks()["constant"] == pytest.approx(max(yes, 1 - yes), abs=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_oracle_gains_by_the_examples(kind: str) -> None:
    found = InContextBoolean(kind, n_dims=5, n_points=20).yardsticks()
    assert found["oracle"] > found["constant"] + 0.03
