"""Numbers as they are written."""

import pytest

from layersmith.report import units


@pytest.mark.parametrize(
    ("write", "value", "expected"),
    [
        (units.divergence, 0.0213, "0.021"),
        (units.divergence, 0.0, "0"),
        (units.divergence, 4.26e-6, "4.3·10⁻⁶"),
        (units.divergence, 12.34, "12"),
        (units.significant, 9.996, "10.0"),
        (units.significant, -0.5, "-0.500"),
        (units.significant, 1e304, "1·10³⁰⁴"),
        (units.tick, 0.30000000000000004, "0.3"),
        (units.tick, 20.0, "20"),
        (units.ratio, 0.742, "0.74×"),
        (units.percent, 0.9613, "96.1\u00a0%"),
        (units.milliseconds, 41.23, "41.2\u00a0ms"),
        (units.milliseconds, 1234.0, "1.23\u00a0s"),
        (units.count, 192, "192"),
        (units.count, 3932352, "3.93\u00a0M"),
        (units.count, 999_600, "1.00\u00a0M"),
        (units.size, 7864704, "7.86\u00a0MB"),
        (units.flops, 4.1e9, "4.10\u00a0GFLOP"),
        (units.seconds, 3.21, "3.2\u00a0s"),
        (units.seconds, 252.0, "4\u00a0min 12\u00a0s"),
        (units.seconds, 3780.0, "1\u00a0h 03\u00a0min"),
    ],
)
def test_written(write, value, expected):
    assert write(value) == expected
    assert write(None) == units.EMPTY if write is not units.tick else True


def test_change_is_relative_to_the_prediction():
    assert units.change(0.02, 0.023) == "+15\u00a0%"
    assert units.change(0.02, 0.016) == "−20\u00a0%"
    assert units.change(0.02, 0.02001) == "0\u00a0%"
    assert units.change(None, 0.02) == units.change(0.0, 0.02) == units.EMPTY


def test_bounds_stand_as_they_were_asked_for():
    assert units.bound(0.6) == "0.60×"
    assert units.bound(0.745) == "0.745×"
    assert units.bound(None) == units.EMPTY


def test_a_share_over_its_bound_does_not_read_like_it():
    assert units.against(0.6004, 0.6) == "0.6004×"
    assert units.against(0.5996, 0.6) == "0.60×"
    assert units.against(0.8, None, 3) == "0.800×"
    assert units.against(None, 0.6) == units.EMPTY


def test_a_range_of_milliseconds():
    assert units.between(29.74, 31.2) == "29.7 to 31.2\u00a0ms"
    assert units.between(980.0, 1040.0) == "980\u00a0ms to 1.04\u00a0s"


def test_plural():
    assert units.plural(1, "site") == "1\u00a0site"
    assert units.plural(0, "site") == "0\u00a0sites"
