"""Claims with known outcomes: planted scores make them hold, fail, or stay undecided."""

from __future__ import annotations

from typing import Any

import pytest

from layersmith.errors import UserError
from layersmith.racing.expected import came_of_it, check_expected

HIGH, LOW, WIDE = [0.90, 0.91, 0.92], [0.50, 0.51, 0.49], [0.2, 0.9, 0.5]


@pytest.mark.parametrize(
    ("expect", "scores", "higher", "word"),
    [
        ({"beats": ["b"]}, {"a": HIGH, "b": LOW}, True, "held"),
        ({"beats": ["b"]}, {"a": HIGH, "b": LOW}, False, "did not hold"),
        ({"beats": ["b"]}, {"a": HIGH, "b": WIDE}, True, "not distinguishable"),
        ({"beats": ["b"]}, {"a": HIGH, "b": HIGH}, True, "not distinguishable"),
        ({"beats": ["b", "c"]}, {"a": HIGH, "b": LOW, "c": WIDE}, True, "not distinguishable"),
        ({"beats": ["b", "c"]}, {"a": LOW, "b": HIGH, "c": WIDE}, True, "did not hold"),
        ({"beats": ["b"]}, {"a": HIGH[:2], "b": LOW[:2]}, True, "too few seeds"),
        ({"matches": ["b"]}, {"a": HIGH, "b": HIGH}, True, "held"),
        ({"matches": ["b"], "within": 0.5}, {"a": LOW, "b": HIGH}, True, "held"),
        ({"matches": ["b"], "within": 0.1}, {"a": LOW, "b": HIGH}, True, "did not hold"),
        ({"reaches": "oracle", "within": 0.15}, {"a": HIGH}, True, "held"),
        ({"reaches": "oracle", "within": 0.05}, {"a": HIGH}, True, "did not hold"),
        ({"reaches": "oracle", "within": 0.09}, {"a": HIGH}, True, "not distinguishable"),
        ({"reaches": "least", "within": 0.05}, {"a": [0.205, 0.206, 0.207]}, False, "held"),
        ({"reaches": "least", "within": 0.05}, {"a": [0.22, 0.221, 0.222]}, False, "did not hold"),
    ],
    ids=str,
)
def test_the_word(expect: dict[str, Any], scores: dict[str, list[float]], higher: bool, word: str) -> None:
    found = came_of_it({"entrant": "a", **expect}, scores, {"oracle": 1.0, "least": 0.2}, higher)
    assert found["word"] == word
    for each in found["against"]:
        if each["interval"] is not None:
            assert each["interval"][0] <= each["difference"] <= each["interval"][1]


def test_a_difference_points_to_better() -> None:
    up = came_of_it({"entrant": "a", "beats": ["b"]}, {"a": HIGH, "b": LOW}, {}, True)["against"][0]
    down = came_of_it({"entrant": "a", "beats": ["b"]}, {"a": LOW, "b": HIGH}, {}, False)["against"][0]
    assert up["difference"] == pytest.approx(0.41)
    assert down["difference"] == pytest.approx(0.41)


def test_the_error_is_shared_out_over_rivals() -> None:
    scores = {"a": HIGH, "b": [0.5, 0.55, 0.45], "c": [0.5, 0.55, 0.45]}
    one = came_of_it({"entrant": "a", "beats": ["b"]}, scores, {}, True)["against"][0]["interval"]
    two = came_of_it({"entrant": "a", "beats": ["b", "c"]}, scores, {}, True)["against"][0]["interval"]
    assert two[0] < one[0] < one[1] < two[1]


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"entrant": "a"}, "one of beats, matches, reaches, not 0"),
        ({"entrant": "a", "beats": ["b"], "matches": ["b"]}, "not 2"),
        ({"entrant": "z", "beats": ["b"]}, "names 'z', which does not race"),
        ({"entrant": "a", "beats": ["z"]}, "names 'z'"),
        ({"entrant": "a", "beats": "b"}, "a list of entrants"),
        ({"entrant": "a", "beats": []}, "a list of entrants"),
        ({"entrant": "a", "beats": ["b"], "within": 2}, "a share from 0 to 1"),
        ({"entrant": "a", "beats": ["b"], "split": "train"}, "test or longer"),
        ({"entrant": "a", "beets": ["b"]}, "Did you mean 'beats'"),
    ],
    ids=str,
)
def test_what_says_no_claim(expect: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_expected(expect, ["a", "b"])


def test_a_yardstick_that_is_not_there() -> None:
    with pytest.raises(UserError, match=r"the yardstick 'orakle'. Did you mean 'oracle'"):
        came_of_it({"entrant": "a", "reaches": "orakle"}, {"a": HIGH}, {"oracle": 1.0}, True)
