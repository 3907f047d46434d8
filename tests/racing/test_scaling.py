"""The power law recovers what was planted, its interval covers it as often as it says, and fewer sizes are refused."""

from __future__ import annotations

import numpy as np
import pytest

from layersmith.errors import UserError
from layersmith.racing.options import RaceConfig, check
from layersmith.racing.scaling import fit, law


def planted(sizes: list[float], exponent: float, x0: float, floor: float, noise: float, seed: int = 0, seeds: int = 3):
    draw = np.random.default_rng(seed)
    return {
        size: list((floor + (x0 / size) ** exponent) * np.exp(noise * draw.standard_normal(seeds))) for size in sizes
    }


def test_a_straight_line_between_logarithms_is_recovered_exactly() -> None:
    found = law(planted([1e4, 3e4, 1e5], 0.3, 2e5, 0.0, 0.0))
    assert found is not None
    assert found.exponent == pytest.approx(0.3, rel=1e-9)
    assert found.x0 == pytest.approx(2e5, rel=1e-6)
    assert found.floor == 0.0
    assert found.interval == pytest.approx((0.3, 0.3))


@pytest.mark.parametrize(("exponent", "floor"), [(0.5, 1.0), (0.25, 0.4), (1.2, 2.0)])
def test_a_floor_is_recovered_from_noisy_losses(exponent: float, floor: float) -> None:
    sizes = [float(size) for size in np.geomspace(1e3, 1e7, 7)]
    found = law(planted(sizes, exponent, 3e4, floor, 1e-4, seeds=5))
    assert found is not None
    assert found.exponent == pytest.approx(exponent, rel=0.05)
    assert found.floor == pytest.approx(floor, rel=0.05)
    assert found.x0 == pytest.approx(3e4, rel=0.05)


def test_a_floor_is_never_negative() -> None:
    sizes = np.geomspace(1e3, 1e6, 4)
    losses = 10 - np.log(sizes)  # bends down: the best law without the bound would have a negative floor
    _, _, floors = fit(sizes, losses[None])
    assert floors[0] == 0.0


@pytest.mark.parametrize(("sizes", "floor"), [([1e4, 3e4, 1e5], 0.0), ([1e3, 1e4, 1e5, 1e6, 1e7], 0.5)], ids=str)
def test_the_interval_covers_the_planted_exponent(sizes: list[float], floor: float) -> None:
    covered, widths = 0, []
    for seed in range(60):
        found = law(planted(sizes, 0.4, 3e4, floor, 0.02, seed=seed))
        assert found is not None
        assert found.interval is not None
        covered += found.interval[0] <= 0.4 <= found.interval[1]
        widths.append(found.interval[1] - found.interval[0])
    assert covered >= 53, "95 % of 60 are 57; fewer than 53 would happen once in a hundred times"
    assert np.median(widths) < 0.4, "and not because it holds everything"


def test_what_diverged_is_left_out_and_a_single_loss_gives_no_interval() -> None:
    losses = planted([1e4, 3e4, 1e5], 0.3, 2e5, 0.0, 0.01)
    losses[3e4] = losses[3e4][:1]
    found = law(losses)
    assert found is not None
    assert found.interval is None
    assert law({**losses, 1e5: []}) is None


def test_fewer_than_three_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 sizes"):
        law({1.0: [1.0], 2.0: [0.5]})
    with pytest.raises(UserError, match="A power law needs at least 3 sizes, and 2 would be trained"):
        check(RaceConfig(scale=[0.5]))
    with pytest.raises(UserError, match="2 would be trained"):
        check(RaceConfig(scale=[0.5, 1.0]))
    with pytest.raises(UserError, match="above 0"):
        check(RaceConfig(scale=[0.5, -1.0]))
    with pytest.raises(UserError, match="budget of params, flops or state_bytes"):
        check(RaceConfig(scale=[0.25, 0.5], budget={"seconds": 3.0}))
