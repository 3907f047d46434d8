"""What a race says beyond its leaderboard: the claim in one sentence, and a row of the power law for each entrant."""

from __future__ import annotations

from typing import Any

from layersmith.report import race_findings

EXPECTED = {
    "entrant": "a",
    "matches": ["b"],
    "within": 0.01,
    "split": "longer",
    "word": "did not hold",
    "against": [{"rival": "b", "difference": -0.25, "interval": [-0.5, -0.125]}],
}


def test_the_claim_in_one_sentence() -> None:
    said = race_findings.expected({"expected": EXPECTED, "task": {"metric": "accuracy"}})
    assert said is not None
    assert said.replace("\u00a0", " ") == (
        "The claim did not hold: a as good as b, within 1.0 % on longer examples. Accuracy, in the direction of "
        "better: b by −0.250 (−0.500 to −0.125)."
    )
    assert race_findings.expected({"expected": None}) is None


def test_a_row_of_the_law_for_each_entrant() -> None:
    points = [{"share": share, "size": 1, "losses": losses} for share, losses in ((0.5, [2.0, 3.0]), (1, [1.0, None]))]
    law: dict[str, Any] = {"exponent": 0.5, "interval": [0.25, 0.75], "floor": 0.0, "x0": 1.0}
    entrants = [{"name": "a", "points": points, "law": law}, {"name": "b", "points": points, "law": None}]
    found = race_findings.headed({"scaling": {"entrants": entrants}})
    assert found is not None
    head, (first, second) = found
    assert len(head) == len(first) == len(second) == 6
    assert first == ["a", "0.500", "0.250 to 0.750", "0.000", "2.500", "1.000, 1 diverged"]
    assert second[1:4] == ["–", "–", "–"]
    assert race_findings.headed({}) is None
