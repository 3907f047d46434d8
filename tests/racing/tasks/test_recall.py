"""Recall: an oracle that looks answers up is right everywhere, and what knows less scores what its yardstick says."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from layersmith.errors import UserError
from layersmith.racing.task import IGNORED, Batch
from layersmith.racing.tasks import TASKS, build_task

SETTINGS: list[dict[str, Any]] = [{}, {"vocabulary": 16, "pairs": 3, "tokens": 12}, {"pairs": 12, "tokens": 90}]


def batch_of(settings: dict[str, Any], size: int = 64, seed: int = 0) -> tuple[Any, Batch]:
    task = build_task("recall", settings)
    return task, task.batch(torch.Generator().manual_seed(seed), size)


def logits(answers: Tensor, outputs: int) -> Tensor:
    return torch.nn.functional.one_hot(answers, outputs).float()


def looked_up(row: list[int], pairs: int) -> list[int]:
    """The answer at every position, read off the pairs at the beginning; 0 where there is none."""
    value = {row[2 * i]: row[2 * i + 1] for i in range(pairs)}
    return [0] * (2 * pairs) + [value.get(token, 0) for token in row[2 * pairs :]]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_looking_up_answers_everything(settings: dict[str, Any]) -> None:
    task, batch = batch_of(settings)
    answers = torch.tensor([looked_up(row, task.pairs) for row in batch.inputs.tolist()])
    assert task.score(logits(answers, task.n_outputs), batch) == task.yardsticks()["oracle"] == 1.0
    # Whatever is answerable is asked, and each key once: a blank or a value is no question.
    assert torch.equal(answers != 0, batch.targets != IGNORED)
    assert ((batch.targets != IGNORED).sum(1) == task.pairs).all()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_keys_and_values_are_distinct_and_of_different_halves(settings: dict[str, Any]) -> None:
    task, batch = batch_of(settings)
    half = task.vocabulary // 2
    for row in batch.inputs[:, : 2 * task.pairs].tolist():
        keys, values = row[0::2], row[1::2]
        assert len(set(keys)) == len(set(values)) == task.pairs
        assert all(1 <= key < half for key in keys)
        assert all(half <= value < task.vocabulary for value in values)


def test_the_yardsticks_are_what_such_entrants_score() -> None:
    task, batch = batch_of({}, size=4096)
    generator = torch.Generator().manual_seed(1)
    any_value = task.vocabulary // 2 + torch.randint(task.vocabulary // 2, batch.inputs.shape, generator=generator)
    one_seen = batch.inputs[:, 1:2].expand_as(batch.inputs)
    assert task.score(logits(any_value, 64), batch) == pytest.approx(task.yardsticks()["random"], abs=0.005)
    assert task.score(logits(one_seen, 64), batch) == pytest.approx(task.yardsticks()["seen"], abs=1e-9)


def test_questions_come_soon_as_the_power_law_says() -> None:
    def first_gap(power: float) -> float:
        _, batch = batch_of({"pairs": 1, "tokens": 42, "power": power}, size=1 << 16)
        return float((batch.targets != IGNORED).float().argmax(1).sub(2).div(2).mean())

    weights = torch.arange(1, 21, dtype=torch.float64) ** (0.01 - 1)
    expected = float((weights * torch.arange(20)).sum() / weights.sum())
    assert first_gap(0.01) == pytest.approx(expected, abs=0.1)
    assert first_gap(1.0) == pytest.approx(9.5, abs=0.1)


def test_a_seed_gives_its_data_and_batches_go_on() -> None:
    task, batch = batch_of({}, seed=3)
    _, again = batch_of({}, seed=3)
    assert torch.equal(batch.inputs, again.inputs)
    assert torch.equal(batch.targets, again.targets)
    generator = torch.Generator().manual_seed(3)
    assert not torch.equal(task.batch(generator, 64).inputs, task.batch(generator, 64).inputs)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"vocabulary": 7}, "even number"),
        ({"pairs": 0}, "pairs must be from 1"),
        ({"vocabulary": 8, "pairs": 4}, "pairs must be from 1 to 3"),
        ({"tokens": 30}, r"from 32 on"),
        ({"power": 0.0}, "power must be more than 0"),
        ({"size": 3}, "does not take these settings"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_task("recall", settings)


def test_the_name_in_the_table_is_the_tasks_own() -> None:
    for name, target in TASKS.items():
        module, _, found = target.partition(":")
        assert getattr(importlib.import_module(module), found).name == name
    with pytest.raises(UserError, match="Did you mean 'recall'"):
        build_task("recal", {})
