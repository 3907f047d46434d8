"""Labels in context or by heart: the counts of a sequence, who stands in it, and the two oracles by loops."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from layersmith.racing.task import IGNORED, Batch
from layersmith.racing.tasks.bursty import Bursty
from layersmith.racing.tasks.shared.drawing import judged

from .small import draw


def read(task: Bursty, batch: Batch) -> list[tuple[list[np.ndarray], list[int], int]]:
    """Of each sequence: its nine items, the labels of the first eight, and what is asked."""
    found = []
    for row, targets in zip(batch.inputs.double().numpy(), batch.targets.tolist(), strict=True):
        assert set(targets[:-1]) == {IGNORED}
        items = [row[2 * n, : task.n_dims] for n in range(9)]
        assert all((row[2 * n, task.n_dims :] == 0).all() for n in range(9))
        labels = [int(row[2 * n + 1, task.n_dims :].argmax()) for n in range(8)]
        assert all(row[2 * n + 1].sum() == 1 for n in range(8))
        found.append((items, labels, targets[-1]))
    return found


def test_bursty_sequences_hold_the_answer_three_times_and_another_class_three_times() -> None:
    task = Bursty(bursts=1.0, n_classes=500, noise=0.0)
    prototypes = task.prototypes.double().numpy()
    usual, places = 0, np.zeros(8)
    for items, labels, answer in read(task, draw(task, 400)):
        for item, label in zip(items, [*labels, answer], strict=True):
            np.testing.assert_array_equal(item, prototypes[label])
        counts = Counter(labels)
        assert counts[answer] >= 3
        places += [label == answer for label in labels]
        usual += sorted(counts.values()) == [1, 1, 3, 3]
    assert usual > 380  # classes that come up twice are rare
    assert (np.abs(places / 400 - 3 / 8) < 0.1).all(), "copies stand anywhere"


def test_without_bursts_classes_are_drawn_one_by_one() -> None:
    task = Bursty(bursts=0.0, n_classes=50)
    found = read(task, draw(task, 2000))
    there = np.mean([answer in labels for _, labels, answer in found])
    assert there == pytest.approx(1 - (1 - 1 / 50) ** 8, abs=0.03)
    half = Bursty(bursts=0.5, n_classes=500)
    there = np.mean([labels.count(answer) >= 3 for _, labels, answer in read(half, draw(half, 2000))])
    assert there == pytest.approx(0.5, abs=0.04)


def test_a_tail_makes_classes_rare_as_zipf_has_it_in_training_alone() -> None:
    task = Bursty(asks="weights", tail=1.0, n_classes=20)
    asked = np.bincount(draw(task, 20_000).targets[:, -1], minlength=20) / 20_000
    want = 1 / np.arange(1, 21)
    np.testing.assert_allclose(asked, want / want.sum(), atol=0.01)
    judged_on = np.bincount(draw(task, 20_000, "test").targets[:, -1], minlength=20) / 20_000
    np.testing.assert_allclose(judged_on, 1 / 20, atol=0.01)


def test_by_heart_nothing_in_the_sequence_helps() -> None:
    task = Bursty(asks="weights", n_classes=30)
    for _, labels, answer in read(task, draw(task, 300, "valid")):
        assert len({*labels, answer}) == 9


def test_in_context_there_are_two_new_classes_of_four() -> None:
    task = Bursty(noise=0.0)
    known = task.prototypes.double().numpy()
    answers = []
    for items, labels, answer in read(task, draw(task, 300, "test")):
        assert Counter(labels) == {0: 4, 1: 4}
        of = {label: item for item, label in zip(items[:-1], labels, strict=True)}
        assert all((item == of[label]).all() for item, label in zip(items, [*labels, answer], strict=True))
        assert np.abs(known - of[0]).sum(1).min() > 0.1, "no trained class"
        answers.append(answer)
    assert np.mean(answers) == pytest.approx(0.5, abs=0.1)


def test_relabelled_are_two_trained_classes_under_labels_of_others() -> None:
    task = Bursty(asks="relabelled", noise=0.0, n_classes=12)
    known = task.prototypes.double().numpy()
    for items, labels, answer in read(task, draw(task, 300, "test")):
        assert Counter(labels) == {0: 4, 1: 4}
        own = [int(np.abs(known - item).sum(1).argmin()) for item in items]
        assert all((known[one] == item).all() for one, item in zip(own, items, strict=True))
        assert len(set(own)) == 2
        assert min(own) >= 2, "no class is called what it is"
        assert len(set(zip(own, [*labels, answer], strict=True))) == 2


def test_each_question_can_be_answered_in_one_way_alone() -> None:
    """By the label of the nearest item before, or by that of the nearest prototype."""
    for asks, by_prompt, by_heart in (("context", 1.0, 0.0), ("relabelled", 1.0, 0.0), ("weights", 0.0, 1.0)):
        task = Bursty(asks=asks, noise=0.05)
        known = task.prototypes.double().numpy()
        prompt, heart = [], []
        for items, labels, answer in read(task, draw(task, 400, "test")):
            nearest = np.linalg.norm(np.array(items[:-1]) - items[-1], axis=1).argmin()
            prompt.append(labels[nearest] == answer)
            heart.append(np.linalg.norm(known - items[-1], axis=1).argmin() == answer)
        assert np.mean(prompt) == pytest.approx(by_prompt, abs=0.02)
        assert np.mean(heart) == pytest.approx(by_heart, abs=0.02)


def test_the_oracle_of_relabelled_classes_goes_through_all_pairs() -> None:
    task = Bursty(asks="relabelled", n_classes=9, n_dims=2, noise=1.5)
    known, right = task.prototypes.double().numpy(), []
    batch = judged(task)
    for items, labels, _ in read(task, Batch(batch.inputs[:300], batch.targets[:300])):
        scores = np.zeros(2)
        for one in range(2, 9):
            for other in range(2, 9):
                if one == other:
                    continue
                meant = known[[(one, other)[label] for label in labels]]
                away = ((np.array(items[:-1]) - meant) ** 2).sum()
                for label in (0, 1):
                    last = ((items[-1] - known[(one, other)[label]]) ** 2).sum()
                    scores[label] += np.exp(-(away + last - 20) / (2 * 1.5**2))
        right.append(int(scores.argmax()))
    assert task._likelier_class(batch.inputs[:300]).tolist() == right
    assert task.yardsticks()["oracle"] > 0.55


@pytest.mark.parametrize("asks", ["context", "weights"])
def test_the_oracle_is_the_likelier_label_by_densities(asks: str) -> None:
    task = Bursty(asks=asks, n_classes=20, n_dims=3, noise=1.0)
    right = []
    for items, labels, answer in read(task, judged(task)):
        scores = {}
        for label in {*range(2)} if asks == "context" else {*range(20)} - set(labels):
            if asks == "weights":
                mean, variance = task.prototypes[label].double().numpy(), 1.0
            else:  # the posterior of the prototype given four items, and the density of a fifth one
                four = [item for item, other in zip(items[:-1], labels, strict=True) if other == label]
                mean, variance = np.sum(four, 0) / (4 + 1.0**2), 1.0 + 1 / (1 + 4 / 1.0**2)
            scores[label] = -((items[-1] - mean) ** 2).sum() / (2 * variance)
        right.append(max(scores, key=scores.__getitem__) == answer)
    found = task.yardsticks()
    assert found["oracle"] == pytest.approx(np.mean(right), abs=1e-9)
    assert 0.2 < found["oracle"] < 0.98
    assert found["oracle"] > found["linear"]


def test_prototypes_are_fixed_by_the_seed() -> None:
    assert torch.equal(Bursty(seed=1).prototypes, Bursty(seed=1).prototypes)
    assert not torch.equal(Bursty(seed=1).prototypes, Bursty(seed=2).prototypes)
