"""Tuning: the halving rule by hand, grids that are widened and grids that are not."""

from __future__ import annotations

import math

from layersmith.racing.grid import Tuned, search

LRS = [1e-3, 3e-3, 1e-2]


def bowl(best_lr: float, best_decay: float = 0.01):
    def loss(point: tuple[float, float], share: float) -> float:
        lr, decay = point
        return abs(math.log10(lr / best_lr)) + abs(decay - best_decay) + (1 - share)

    return loss


def test_halves_go_on_and_the_best_is_taken() -> None:
    found = search(LRS, [0.0, 0.01], bowl(3e-3))
    assert (found.lr, found.weight_decay) == (3e-3, 0.01)
    looked_at = [(lr, decay, share) for lr, decay, share, _ in found.tried]
    assert looked_at[:6] == [(lr, decay, 0.25) for lr in LRS for decay in (0.0, 0.01)]
    halves = {(lr, decay) for lr, decay, share in looked_at[6:9]}
    assert halves == {(3e-3, 0.01), (3e-3, 0.0), (1e-2, 0.01)} or halves == {(3e-3, 0.01), (3e-3, 0.0), (1e-3, 0.01)}


def test_the_later_comparison_decides() -> None:
    """A point that is better at first and worse later loses to one that was good enough to go on."""

    def loss(point: tuple[float, float], share: float) -> float:
        return {1e-3: (1.0, 0.9), 3e-3: (1.1, 0.2), 1e-2: (5.0, 0.0)}[point[0]][share == 0.5]

    found = search(LRS, [0.0], loss)
    assert found.lr == 3e-3
    assert (1e-2, 0.0, 0.5, 0.0) not in found.tried, "what fell out is not looked at again"


def test_a_grid_is_widened_until_its_best_lies_inside() -> None:
    high = search(LRS, [0.01], bowl(0.1))
    assert high.lr == max(lr for lr, *_ in high.tried if lr <= 0.12)
    assert 0.05 < high.lr < 0.2
    assert not high.on_edge
    low = search(LRS, [0.01], bowl(1e-4))
    assert 5e-5 < low.lr < 2e-4
    assert not low.on_edge


def test_widening_ends_and_says_so() -> None:
    found = search(LRS, [0.01], bowl(1e6))
    assert found.on_edge
    assert len({lr for lr, *_ in found.tried}) == 3 + 4


def test_one_value_alone_is_kept() -> None:
    found = search([1e-6], [0.01, 0.1], bowl(1e-2))
    assert (found.lr, found.on_edge) == (1e-6, False)
    assert {lr for lr, *_ in found.tried} == {1e-6}


def test_where_nothing_is_to_be_chosen_nothing_is_trained() -> None:
    def loss(point: tuple[float, float], share: float) -> float:
        raise AssertionError("there is one point alone")

    assert search([1e-3], [0.1], loss) == Tuned(1e-3, 0.1, [], on_edge=False)


def test_weight_decay_is_widened_upwards_and_not_below_none() -> None:
    up = search([1e-2], [0.01, 0.1], bowl(1e-2, 1.0))
    assert up.weight_decay == 1.0
    none = search([1e-2], [0.0, 0.1], bowl(1e-2, 0.0))
    assert (none.weight_decay, none.on_edge) == (0.0, False)


def test_diverged_points_lose_and_a_smaller_rate_is_looked_for() -> None:
    def loss(point: tuple[float, float], share: float) -> float:
        return math.inf if point[0] > 5e-4 else 1.0

    found = search(LRS, [0.0], loss)
    assert found.lr < 5e-4
