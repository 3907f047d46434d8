"""A Markov source: it switches as often as it says, tokens spell it, and yardsticks come close to its entropy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from layersmith.racing.tasks import markov
from layersmith.racing.tasks.markov import Markov, dictionary, merged, source

from .small import draw


@pytest.mark.parametrize(("order", "switch"), [(1, 0.3), (2, 0.2), (5, 0.9)])
def test_a_bit_depends_on_the_one_that_stands_so_far_back(order: int, switch: float) -> None:
    text = source(np.random.default_rng(0), order, switch, 200_001)
    assert len(text) == 200_001
    assert (text[order:] != text[:-order]).mean() == pytest.approx(switch, abs=0.01)
    assert text.mean() == pytest.approx(0.5, abs=0.02)
    for back in range(1, order):  # what stands nearer says nothing
        assert (text[back:] != text[:-back]).mean() == pytest.approx(0.5, abs=0.02)


def test_a_pair_is_merged_from_the_left() -> None:
    for pair in ((0, 0), (0, 1), (1, 1)):
        for bits in itertools.product((0, 1), repeat=7):
            want, n = [], 0
            while n < 7:
                if bits[n : n + 2] == pair:
                    want.append(2)
                    n += 2
                else:
                    want.append(bits[n])
                    n += 1
            assert merged(np.array(bits), pair, 2).tolist() == want


def spelled(pairs: tuple[tuple[int, int], ...]) -> list[str]:
    found = ["0", "1"]
    for one, other in pairs:
        found.append(found[one] + found[other])
    return found


def test_tokens_spell_the_source() -> None:
    task = Markov(merges=30)
    words = spelled(dictionary(2, 0.2, 30, 0))
    assert len(set(words)) == 32
    text = task._text("test")
    bits = "".join(words[token] for token in text.tolist())
    want = source(np.random.default_rng((0, 2)), 2, 0.2, markov.BITS["test"])
    assert bits == "".join(map(str, want.tolist()))
    assert task._lengths().tolist() == [len(word) for word in words]
    assert (torch.bincount(text, minlength=32) > 0).sum() > 20


def test_the_first_pair_is_the_most_frequent_one() -> None:
    text = source(np.random.default_rng((0, 3)), 1, 0.1, markov.LEARNT_FROM)
    following = list(zip(text[:5000].tolist(), text[1:5001].tolist(), strict=True))
    assert following.count((0, 0)) > 5 * following.count((0, 1))
    assert dictionary(1, 0.1, 1, 0)[0] in ((0, 0), (1, 1))


def test_windows_are_consecutive_and_asked_one_on() -> None:
    batch = draw(Markov(merges=5, tokens=12), 20)
    assert batch.inputs[:, 1:].equal(batch.targets[:, :-1])
    text = "".join(chr(97 + t) for t in Markov(merges=5)._text("train").tolist())
    for row, target in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert "".join(chr(97 + t) for t in [*row, target[-1]]) in text


def test_who_knows_the_source_scores_the_oracle() -> None:
    task = Markov(order=3, switch=0.15, tokens=32)
    batch = draw(task, 3000, "test")
    logits = torch.zeros(*batch.targets.shape, 2)
    for t in range(2, 32):  # at position t stands bit t, asked is bit t + 1, which depends on bit t + 1 - 3
        before = batch.inputs[:, t - 2, None]
        logits[:, t] = torch.where(before == torch.arange(2), math.log(0.85), math.log(0.15))
    assert task.score(logits, batch) == pytest.approx(task.yardsticks()["oracle"], rel=0.01)


def test_tokens_alone_come_close_to_the_entropy_where_bits_alone_do_not() -> None:
    found = {merges: Markov(merges=merges).yardsticks() for merges in (0, 10, 100)}
    rate = -(0.2 * math.log2(0.2) + 0.8 * math.log2(0.8))
    assert found[0]["unigram"] == pytest.approx(1, abs=1e-3)
    assert found[10]["entropy rate"] == pytest.approx(rate)
    assert found[0]["unigram"] > found[10]["unigram"] + 0.02 > found[100]["unigram"] + 0.04 > rate


def test_scores_of_tokens_are_bits_of_the_source() -> None:
    task = Markov(merges=20, tokens=8)
    batch = draw(task, 50)
    words = spelled(dictionary(2, 0.2, 20, 0))
    bits = sum(len(words[token]) for row in batch.targets.tolist() for token in row)
    assert task.score(torch.zeros(50, 8, 22), batch) == pytest.approx(50 * 8 * math.log2(22) / bits)
