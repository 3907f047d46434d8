"""Modular addition and facts: finite sets of examples, dealt out once."""

from __future__ import annotations

import pytest

from layersmith.racing.task import IGNORED
from layersmith.racing.tasks.facts import Facts
from layersmith.racing.tasks.modular_addition import ModularAddition

from .small import draw


def test_sums_are_right() -> None:
    batch = draw(ModularAddition(7), 300)
    for (a, b, equals), targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert equals == 7
        assert targets == [IGNORED, IGNORED, (a + b) % 7]


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_pairs_are_dealt_out_once_and_all_of_them(share: float) -> None:
    task = ModularAddition(11, train_share=share)
    seen = {split: {tuple(row[:2]) for row in draw(task, 3000, split).inputs.tolist()} for split in task.splits}
    assert len(seen["train"]) == round(share * 121)
    assert sum(map(len, seen.values())) == len(set.union(*seen.values())) == 121
    assert abs(len(seen["valid"]) - len(seen["test"])) <= 1
    assert task.pairs["train"].equal(ModularAddition(11, train_share=share).pairs["train"])
    assert not task.pairs["train"].equal(ModularAddition(11, train_share=share, seed=1).pairs["train"])


def test_facts_are_bijections_and_the_same_in_all_splits() -> None:
    task = Facts(n_subjects=6, n_relations=3)
    learnt: dict[tuple[int, int], int] = {}
    for split in ("train", "valid", "test"):
        batch = draw(task, 400, split)
        for (subject, relation), (nothing, target) in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            assert nothing == IGNORED
            assert 6 <= relation < 9
            assert learnt.setdefault((subject, relation), target) == target
    assert len(learnt) == 18
    for relation in (6, 7, 8):
        assert sorted(learnt[subject, relation] for subject in range(6)) == list(range(6))
    assert not task.objects.equal(Facts(6, 3, seed=1).objects)


def test_rare_subjects_are_rare_in_training_alone() -> None:
    """Frequencies of 4 subjects under Zipf's law: 12/25, 6/25, 4/25, 3/25."""
    task = Facts(n_subjects=4, n_relations=2, tail=1.0)
    seen = {split: draw(task, 20_000, split).inputs[:, 0].bincount(minlength=4) / 20_000 for split in task.splits}
    assert seen["train"].tolist() == pytest.approx([0.48, 0.24, 0.16, 0.12], abs=0.015)
    assert seen["valid"].tolist() == seen["test"].tolist() == pytest.approx(4 * [0.25], abs=0.015)
    assert task.objects.equal(Facts(n_subjects=4, n_relations=2).objects)
