"""Scales, ticks and the placing of names."""

import math

import pytest

from layersmith.report.labels import Box, Label, around, placed
from layersmith.report.svg import SHAPES, Scale, fitted, log_range, marker, text_width


def test_scale_maps_ends_and_clamps():
    scale = Scale(0.5, 1.0, 100.0, 200.0)
    assert [scale(v) for v in (0.5, 0.75, 1.0, 9.0, -1.0)] == [100, 150, 200, 200, 100]
    log = Scale(0.01, 1.0, 400.0, 0.0, log=True)
    assert log(0.1) == pytest.approx(200)


@pytest.mark.parametrize(("low", "high"), [(0.6, 1.02), (0.0, 300.0), (-0.5, 29.5), (0.2, 1.55)])
def test_linear_ticks_are_round_and_inside(low, high):
    ticks = Scale(low, high, 0, 1).ticks(6)
    assert 3 <= len(ticks) <= 12
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)
    step = ticks[1] - ticks[0]
    assert f"{step:e}"[0] in "125"


@pytest.mark.parametrize(("low", "high"), [(0.004, 2.0), (1e-6, 1.0), (0.02, 0.3), (1e-12, 1e3)])
def test_log_ticks_stay_few(low, high):
    ticks = Scale(low, high, 0, 1, log=True).ticks(10)
    assert 1 <= len(ticks) <= 16
    assert all(low <= t <= high for t in ticks)


def test_log_range_never_touches_zero_and_spans_a_decade():
    for values in ([], [0.0], [0.02], [0.0, 1e-9, 0.5], [0.01, 0.011]):
        low, high = log_range(values, 1e-6)
        assert low > 0
        assert high / low >= 10 - 1e-9
        assert math.isfinite(high)


def test_every_shape_is_drawn_around_its_centre():
    for shape in ("circle", *SHAPES):
        assert 'class="m"' in marker(shape, 10.0, 10.0, 8, {"class": "m"})


def test_fitted_cuts_with_an_ellipsis():
    assert fitted("low_rank keep=0.5", 1000) == "low_rank keep=0.5"
    cut = fitted("low_rank keep=0.5", 60)
    assert cut.endswith("…")
    assert text_width(cut) <= 60
    assert fitted("low_rank", 10) == ""


def test_names_avoid_marks_and_one_another():
    area = Box(0, 0, 400, 200)
    marks = [around(50, 50, 5), around(60, 50, 5)]
    labels = [Label(50, 50, "first", "n"), Label(60, 50, "second", "n"), Label(395, 195, "third", "n")]
    drawn = placed(labels, marks, area)
    assert drawn.count("<text") == 3
    assert 'text-anchor="end"' in drawn  # the third has no room at its right


def test_a_name_without_room_is_left_out():
    crowd = [around(x, y, 10) for x in range(0, 200, 15) for y in range(0, 200, 15)]
    assert placed([Label(100, 100, "a name", "n")], crowd, Box(0, 0, 200, 200)) == ""
