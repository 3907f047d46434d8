"""The verdict: intervals by hand and by simulation, words, and that equal entrants are told apart as rarely as said."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from layersmith.racing import verdict
from layersmith.racing.verdict import AHEAD, BEHIND, FEW, SAME, judge, paired_interval


def test_the_interval_of_three_values_by_enumeration() -> None:
    values = np.array([0.10, 0.13, 0.19])
    means = sorted(np.mean(drawn) for drawn in product(values, repeat=3))
    low, high = means[0], means[-1]  # 1 of 27 resamples is more than 2.5 %
    stretch = np.sqrt(3 / 2) * 4.302652729911275 / 1.959963984540054  # t with 2 degrees of freedom, normal: tables
    found = paired_interval(values)
    assert found[0] == pytest.approx(values.mean() - stretch * (values.mean() - low), rel=1e-9)
    assert found[1] == pytest.approx(values.mean() + stretch * (high - values.mean()), rel=1e-9)


def test_with_many_values_it_is_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(1.0, 2.0, 400)
    low, high = paired_interval(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert low == pytest.approx(values.mean() - half, abs=0.02)
    assert high == pytest.approx(values.mean() + half, abs=0.02)


def test_it_moves_and_scales_with_the_values() -> None:
    values = np.array([0.2, 0.5, 0.3, 0.9])
    low, high = paired_interval(values)
    moved = paired_interval(10 * values - 3)
    assert moved == (pytest.approx(10 * low - 3), pytest.approx(10 * high - 3))
    turned = paired_interval(-values)
    assert turned == (pytest.approx(-high, abs=0.02), pytest.approx(-low, abs=0.02))


@pytest.mark.parametrize("seeds", [3, 5])
def test_it_covers_as_often_as_it_says(seeds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "RESAMPLES", 2000)
    random = np.random.default_rng(seeds)
    intervals = [paired_interval(random.normal(size=seeds)) for _ in range(800)]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert covered > 0.93  # without the stretch: 0.75 of three values


def test_equal_entrants_are_rarely_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdict, "RESAMPLES", 2000)
    random = np.random.default_rng(0)
    races = [judge({str(i): random.normal(size=3) for i in range(4)}) for _ in range(300)]
    wrong = np.mean([any(found.word == BEHIND for found in race.values()) for race in races])
    assert wrong < 0.08  # 5 % and what 300 races leave open; 0.1 if only the pairs with the best counted


def test_a_clear_winner_is_ahead_and_the_others_behind() -> None:
    found = judge({"a": [0.30, 0.31, 0.29], "b": [0.90, 0.92, 0.91], "c": [0.10, 0.12, 0.11]})
    assert list(found) == ["b", "a", "c"]
    assert [each.word for each in found.values()] == [AHEAD, BEHIND, BEHIND]
    assert found["c"].difference == pytest.approx(0.80)
    assert found["b"].interval is None
    assert found["c"].interval[0] > 0.5


def test_where_less_is_better_signs_turn() -> None:
    found = judge({"a": [0.30, 0.31, 0.29], "b": [0.90, 0.92, 0.91]}, higher_is_better=False)
    assert list(found) == ["a", "b"]
    assert [each.word for each in found.values()] == [AHEAD, BEHIND]
    assert found["b"].difference == pytest.approx(0.61)


def test_pairing_cancels_what_seeds_have_in_common() -> None:
    hard = np.array([0.0, 0.4, 0.8])
    paired = judge({"a": 0.2 + hard, "b": 0.1 + hard + [0.001, 0.0, -0.001]})
    mixed = judge({"a": 0.2 + hard, "b": 0.1 + hard[::-1]})
    assert paired["b"].word == BEHIND
    assert mixed["b"].word == SAME


def test_one_entrant_that_is_not_behind_takes_the_win() -> None:
    found = judge({"a": [0.9, 0.8, 0.7], "b": [0.7, 0.8, 0.85], "c": [0.1, 0.1, 0.1]})
    assert [found[name].word for name in "abc"] == [SAME, SAME, BEHIND]


def test_equal_scores_are_not_distinguishable() -> None:
    found = judge({"a": [0.5, 0.6, 0.7], "a #2": [0.5, 0.6, 0.7]})
    assert [each.word for each in found.values()] == [SAME, SAME]
    assert found["a #2"].interval == (0.0, 0.0)


def test_two_seeds_are_too_few() -> None:
    found = judge({"a": [0.1, 0.1], "b": [0.9, 0.9]})
    assert [each.word for each in found.values()] == [FEW, FEW]
    assert found["a"].interval is None
    assert found["a"].difference == pytest.approx(0.8)


def test_the_stretch_is_that_of_the_paper() -> None:
    """sqrt(n / (n - 1)) t / z goes to 1."""
    many = (1000 / 999) ** 0.5 * stats.t.isf(0.025, 999) / stats.norm.isf(0.025)
    assert many == pytest.approx(1.0, abs=0.003)
