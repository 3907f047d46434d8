"""A line per stage, with the divergence on the data that decided there and on the data that decided nothing."""

import pytest

from layersmith.report import stages

from .results import HEALED, REFINED, SEARCHED, UNHEALED, make_result


def test_searched_refined_and_healed_have_a_line_each():
    result = make_result()
    kept = min(p["heldout_divergence"] for p in result["heal"]["curve"])
    assert stages.stages(result) == [
        ("searched", SEARCHED, None),
        ("refined, 1\u00a0exchange", REFINED, UNHEALED),
        ("healed, 300\u00a0steps", kept, HEALED),
    ]
    drawn = stages.table(result)
    for number in ("0.066", "0.061", "0.055", "0.021"):
        assert f">{number}</td>" in drawn


def test_the_numbers_are_those_of_the_other_sections():
    """What stood apart as 0.10 and 0.092 is one model on two sets of data."""
    result = make_result()
    _, refined, healed = stages.stages(result)
    assert refined[1] == pytest.approx(result["heal"]["curve"][0]["heldout_divergence"])
    assert refined[2] == result["chosen"]["unhealed"]["divergence"]
    assert healed[2] == result["chosen"]["measured"]["divergence"]


def test_after_a_roll_back_the_unhealed_model_stands():
    assert stages.stages(make_result(heal="rolled_back"))[-1] == ("healing, rolled back", REFINED, UNHEALED)


def test_without_healing_and_without_exchanges():
    result = make_result(heal="none")
    result["solver"]["refinement"] = []
    assert stages.stages(result) == [("searched, no exchange was better", REFINED, UNHEALED)]
    result["solver"]["baseline"] = "bf16 everywhere"
    assert stages.stages(result) == [("bf16 everywhere, closer than the searched mix", REFINED, UNHEALED)]
    result["solver"]["baseline"] = None
    result["chosen"]["measured"]["divergence"] = 0.057
    assert stages.stages(result)[-1] == ("folded and saved", None, 0.057)


def test_nothing_measured():
    assert stages.table({}) is None
