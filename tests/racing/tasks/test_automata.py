"""Word problems: words are multiplied one element at a time, by applying permutations to five things."""

from __future__ import annotations

import pytest

from layersmith.racing.tasks.automata import GROUPS, Automata, elements, table

from .small import draw


@pytest.mark.parametrize("split", ["train", "longer"])
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("tokens", [1, 7, 16])
def test_products(group: str, split: str, tokens: int) -> None:
    batch = draw(Automata(group, tokens), 40, split)
    assert batch.inputs.shape[1] == tokens * (2 if split == "longer" else 1)
    for word, products in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        total, things = 0, list(range(5))
        for element, product in zip(word, products, strict=True):
            if group == "z60":
                total = (total + element) % 60
                assert product == total
            else:
                things = [elements(group)[element][thing] for thing in things]
                assert elements(group)[product] == tuple(things)


@pytest.mark.parametrize(("group", "order"), [("s5", 120), ("a5", 60), ("z60", 60)])
def test_tables_are_groups(group: str, order: int) -> None:
    found = table(group)
    assert found.shape == (order, order)
    everything = list(range(order))
    assert all(sorted(row) == everything for row in found.tolist())
    assert all(sorted(column) == everything for column in found.T.tolist())
    some = found[:17, :23]
    assert found[some][..., :9].equal(found[:17][:, found[:23, :9]]), "(ab)c = a(bc)"
    commutes = found.equal(found.T)
    assert commutes == (group == "z60")


def test_a5_is_generated_by_products_of_two_swaps() -> None:
    """Every even permutation is an even number of swaps: sort it and count."""
    for permutation in elements("a5"):
        things, swaps = list(permutation), 0
        for i in range(5):
            while things[i] != i:
                j = things[i]
                things[i], things[j] = things[j], things[i]
                swaps += 1
        assert swaps % 2 == 0


def test_first_only() -> None:
    task = Automata("z60", 5)
    batch = draw(task, 6000)
    found = float((batch.inputs == batch.targets).double().mean())
    assert task.yardsticks()["first only"] == pytest.approx(found, abs=0.01)
