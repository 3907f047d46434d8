"""The Pareto chart: a mark for everything measured or predicted, at the right place."""

from xml.etree import ElementTree

import pytest

from layersmith.report import pareto
from layersmith.report.pareto_frame import RIGHT, ZERO, Frame

from .results import make_result


def marks(drawn: str) -> list[ElementTree.Element]:
    """Marks with a tooltip; legend entries have none."""
    return [
        e for e in ElementTree.fromstring(drawn).iter() if "mark" in e.get("class", "").split() and e.get("data-tip")
    ]


def test_every_model_has_its_mark():
    result = make_result()
    classes = [m.get("class").split() for m in marks(pareto.draw(result))]
    uniform = sum(u["measured"] is not None for u in result["uniform"])
    assert sum("uniform" in c for c in classes) == 2 * uniform  # unhealed and healed
    assert sum("predicted" in c for c in classes) == len(result["front"])
    assert sum("measured" in c for c in classes) == len(result["front"]) + 1  # and the healed one's centre
    assert sum("ring" in c for c in classes) == 2
    assert sum("original" in c for c in classes) == 1
    assert "arrow-head" in pareto.draw(result)


def test_without_healing_there_is_one_ring_and_no_arrow():
    for heal in ("none", "rolled_back"):
        drawn = pareto.draw(make_result(heal=heal))
        assert sum("ring" in m.get("class") for m in marks(drawn)) == 1
        assert "arrow-head" not in drawn


def test_lower_divergence_is_lower_and_cheaper_is_further_left():
    frame = Frame(make_result())
    base = frame.result["baseline"]["latency_ms"]
    cheap = frame.at({"divergence": 0.5, "latency_ms": 0.6 * base})
    dear = frame.at({"divergence": 0.02, "latency_ms": 0.9 * base})
    assert cheap[0] < dear[0]
    assert cheap[1] < dear[1]
    assert frame.at({"divergence": 0.0, "latency_ms": base})[1] == ZERO
    assert frame.at({"divergence": None, "latency_ms": base}) is None


def test_a_very_slow_method_stands_at_the_edge_with_its_real_value_in_the_tooltip():
    result = make_result()
    slow = result["uniform"][0]["measured"]
    slow["latency_ratio"], slow["latency_ms"] = 6.0, 6 * result["baseline"]["latency_ms"]
    drawn = pareto.draw(result)
    assert "6.00× latency" in drawn
    assert Frame(result).at(slow)[0] == pytest.approx(RIGHT, abs=40)


def test_the_budget_line_needs_a_budget():
    result = make_result()
    assert "budget 0.75×" in pareto.draw(result)
    del result["settings"]["budget"]
    assert "budget 0.75×" not in pareto.draw(result)


def test_a_missed_budget_and_its_line_are_told_apart():
    result = make_result(met=False)
    result["settings"]["budget"] = {"latency": 0.6}
    result["chosen"]["measured"]["latency_ratio"] = 0.6004
    drawn = pareto.draw(result)
    assert "budget 0.60×" in drawn
    assert "0.6004× latency" in drawn


def test_other_budgets_are_drawn_over_their_own_cost():
    drawn = pareto.draw(make_result(budget="params"))
    assert "parameters relative to the original" in drawn


def test_alone_it_is_a_complete_svg_file(tmp_path):
    path = pareto.write_svg(make_result(), tmp_path / "pareto.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in root.find("{http://www.w3.org/2000/svg}style").text
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_result_still_has_axes_and_the_original():
    assert len(marks(pareto.draw({}))) == 1
