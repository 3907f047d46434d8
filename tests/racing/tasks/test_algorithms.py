"""Arithmetic, sorting, parity and first: every row is read and worked out by Python's own integers and lists."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from layersmith.racing.task import IGNORED, Batch
from layersmith.racing.tasks import build_task
from layersmith.racing.tasks.shared import numerals

from .small import draw


def rows(batch: Batch, pad: int) -> list[tuple[list[int], list[int]]]:
    """(question, answer) of each row, from inputs and targets alone; checks that the two agree."""
    found = []
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        first = next(t for t, target in enumerate(targets) if target != IGNORED)
        answer = [target for target in targets[first:] if target != IGNORED]
        length = first + len(answer)
        assert targets == first * [IGNORED] + answer + (len(targets) - length) * [IGNORED]
        assert inputs[first + 1 : length + 1] == answer[: len(inputs) - first - 1], "the answer so far is read"
        assert pad not in inputs[: first + 1]
        assert set(inputs[length + 1 :]) <= {pad}
        found.append((inputs[: first + 1], answer))
    return found


def number(digits: list[int], reverse: bool) -> int:
    return int("".join(map(str, digits[::-1] if reverse else digits)))


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("split", ["train", "longer"])
@pytest.mark.parametrize(
    ("name", "work", "growth"),
    [("addition", int.__add__, lambda n: n + 1), ("multiplication", int.__mul__, lambda n: 2 * n)],
)
def test_arithmetic(name: str, work: Callable, growth: Callable, split: str, reverse: bool) -> None:
    task = build_task(name, {"longest": 5, "reverse": reverse})
    lengths = set()
    for question, answer in rows(draw(task, 300, split), numerals.PAD):
        assert question[-1] == numerals.EQUALS
        middle = question.index(10)
        a, b = question[:middle], question[middle + 1 : -1]
        assert len(a) == len(b)
        lengths.add(len(a))
        assert len(answer) == growth(len(a))
        assert number(answer, reverse) == work(number(a, reverse), number(b, reverse))
    assert lengths == set(range(1, 6) if split == "train" else range(6, 11))


def test_all_carries_happen() -> None:
    """999 + 001 in some row: a carry through all digits."""
    task = build_task("addition", {"longest": 2})
    sums = {(number(q[:2], True), number(q[3:5], True)) for q, _ in rows(draw(task, 60_000), 12) if len(q) == 6}
    assert len(sums) > 9000
    assert (99, 1) in sums


@pytest.mark.parametrize("split", ["train", "longer"])
def test_sorting(split: str) -> None:
    task: Any = build_task("sorting", {"longest": 4, "n_values": 6})
    lengths = set()
    for question, answer in rows(draw(task, 300, split), 7):
        assert question[-1] == 6
        assert answer == sorted(question[:-1])
        lengths.add(len(answer))
    assert lengths == set(range(1, 5) if split == "train" else range(5, 9))


@pytest.mark.parametrize("split", ["train", "longer"])
@pytest.mark.parametrize(("name", "rule"), [("parity", lambda bits: sum(bits) % 2), ("first", lambda bits: bits[0])])
def test_strings_of_bits(name: str, rule: Callable, split: str) -> None:
    task = build_task(name, {"longest": 6})
    lengths, answers = set(), []
    for question, answer in rows(draw(task, 2000, split), 3):
        *bits, end = question
        assert end == 2
        assert set(bits) <= {0, 1}
        assert answer == [rule(bits)]
        lengths.add(len(bits))
        answers += answer
    assert lengths == set(range(1, 7) if split == "train" else range(7, 13))
    assert abs(sum(answers) / len(answers) - 0.5) < 0.06


@pytest.mark.parametrize("name", ["parity", "first"])
def test_how_much_longer_strings_are_is_a_setting(name: str) -> None:
    task = build_task(name, {"longest": 3, "stretch": 5})
    found = {split: {len(question) - 1 for question, _ in rows(draw(task, 2000, split), 3)} for split in task.splits}
    assert found["longer"] == set(range(4, 16))
    assert found["train"] == found["test"] == {1, 2, 3}
    assert torch.equal(draw(task, 50).inputs, draw(build_task(name, {"longest": 3}), 50).inputs)


@pytest.mark.parametrize("name", ["addition", "multiplication", "sorting"])
def test_one_wrong_digit_makes_an_answer_wrong(name: str) -> None:
    task = build_task(name, {"longest": 3})
    batch = draw(task, 10)
    from .small import right

    outputs = right(task, batch)
    place = int((batch.targets[4] != IGNORED).nonzero()[-1])
    outputs[4, place] = outputs[4, place].roll(1, 0)
    assert task.score(outputs, batch) == pytest.approx(0.9)
