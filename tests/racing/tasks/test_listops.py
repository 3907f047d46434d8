"""ListOps: every expression is parsed and evaluated by a recursive reader written from the definition."""

from __future__ import annotations

import statistics

import pytest

from layersmith.racing.tasks.listops import CLOSE, MAX, MED, MIN, PAD, SM, ListOps

from .small import draw

RULES = {
    MAX: max,
    MIN: min,
    MED: lambda values: int(statistics.median(values)),
    SM: lambda values: sum(values) % 10,
}


def read(tokens: list[int], place: int = 0) -> tuple[int, int, int, list[int]]:
    """(value, where it ends, depth, lengths of all lists in it) of the expression that begins at `place`."""
    if tokens[place] < 10:
        return tokens[place], place + 1, 0, []
    rule, values, deepest, lengths = RULES[tokens[place]], [], 0, []
    place += 1
    while tokens[place] != CLOSE:
        value, place, depth, inner = read(tokens, place)
        values.append(value)
        deepest = max(deepest, depth)
        lengths += inner
    return rule(values), place + 1, deepest + 1, [*lengths, len(values)]


@pytest.mark.parametrize(("depth", "most"), [(1, 2), (2, 5), (3, 4)])
def test_values(depth: int, most: int) -> None:
    batch = draw(ListOps(depth, most), 400)
    depths, lengths, operators = set(), set(), set()
    for row, value in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        tokens = [token for token in row if token != PAD]
        assert row == (len(row) - len(tokens)) * [PAD] + tokens, "padding stands in front"
        found, end, deep, inside = read(tokens)
        assert (found, end) == (value, len(tokens))
        depths.add(deep)
        lengths |= set(inside)
        operators.add(tokens[0])
    assert max(depths) == depth
    assert min(depths) >= 1
    assert lengths == set(range(2, most + 1))
    assert operators == {MAX, MIN, MED, SM}


def test_constant_is_the_most_frequent_value() -> None:
    task = ListOps()
    counts = draw(task, 8000, "test", seed=4).targets.bincount(minlength=10) / 8000
    assert task.yardsticks()["constant"] == pytest.approx(float(counts.max()), abs=0.03)
