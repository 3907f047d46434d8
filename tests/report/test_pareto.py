"""The Pareto chart: a mark for everything measured or predicted, at the right place."""

from xml.etree import ElementTree

import pytest

from layersmith.report import pareto
from layersmith.report.pareto_frame import Frame
from layersmith.report.reading import named

from .charts import elements, marks, numbers, scale, ticks
from .results import make_result


def places(drawn, *classes):
    """(cost ratio, divergence) of marks, read off the axes."""
    across, up = (scale(found, log) for found, log in zip(ticks(drawn), (False, True), strict=True))
    return [(across(float(m.get("x"))), up(float(m.get("y")))) for m in marks(drawn, *classes)]


def test_every_model_has_its_mark():
    result = make_result()
    drawn = pareto.draw(result)
    uniform = sum(u["measured"] is not None for u in result["uniform"])
    assert len(marks(drawn, "uniform")) == 2 * uniform  # unhealed and healed
    assert len(marks(drawn, "uniform", "healed")) == uniform
    assert len(marks(drawn, "predicted")) == len(result["front"])
    assert len(marks(drawn, "measured")) == len(result["front"]) + 1  # and the healed one's centre
    assert len(marks(drawn, "ring")) == 2
    assert len(marks(drawn, "original")) == 1
    assert elements(drawn, "arrow")


def test_marks_stand_where_the_axes_say():
    result = make_result()
    drawn = pareto.draw(result)
    base = result["baseline"]["latency_ms"]
    for state in ("measured", "predicted"):
        parts = [f[state] for f in result["front"]]
        expected = [(p.get("latency_ratio", p["latency_ms"] / base), p["divergence"]) for p in parts]
        found = places(drawn, state)[: len(expected)]
        assert found == [pytest.approx(at, rel=0.01) for at in expected]
    (unhealed, healed) = places(drawn, "ring")
    assert unhealed == pytest.approx((0.74, result["chosen"]["unhealed"]["divergence"]), rel=0.01)
    assert healed == pytest.approx((0.74, result["chosen"]["measured"]["divergence"]), rel=0.01)
    told = [m.get("data-tip").partition("\n")[0] for m in marks(drawn, "uniform")]
    for entry in result["uniform"]:
        for state, words in [("measured", ""), ("healed", ", healed")] if entry["measured"] else []:
            found = places(drawn, "uniform")[told.index(f"uniform {named(entry)}{words}")]
            part = entry[state]
            assert found == pytest.approx((part["latency_ratio"], part["divergence"]), rel=0.01)


def test_the_original_stands_at_one_and_zero_under_the_least_divergence():
    drawn = pareto.draw(make_result())
    (original,), others = marks(drawn, "original"), [m for m in marks(drawn) if "original" not in m.get("class")]
    across, up = ticks(drawn)
    assert float(original.get("x")) == pytest.approx(across[1.0], abs=0.1)
    assert float(original.get("y")) == pytest.approx(up[0.0], abs=0.1)
    assert up[0.0] > max(float(m.get("y")) for m in others)


def test_what_is_rounding_stands_on_the_zero_line():
    result = make_result()
    result["front"][0]["measured"]["divergence"] = 1e-9
    drawn = pareto.draw(result)
    assert float(marks(drawn, "measured")[0].get("y")) == pytest.approx(ticks(drawn)[1][0.0], abs=0.1)


def test_without_healing_there_is_one_ring_and_no_arrow():
    for heal in ("none", "rolled_back"):
        drawn = pareto.draw(make_result(heal=heal))
        assert len(marks(drawn, "ring")) == 1
        assert not elements(drawn, "arrow")


def test_a_part_without_a_cost_or_a_divergence_has_no_place():
    frame = Frame(make_result())
    base = frame.result["baseline"]["latency_ms"]
    assert frame.at({"divergence": None, "latency_ms": base}) is None
    assert frame.at({"divergence": 0.1}) is None
    assert frame.at({"divergence": 0.1, "latency_ms": base}) == (1.0, 0.1)


def test_a_very_slow_method_stands_at_the_edge_with_its_real_value_in_the_tooltip():
    result = make_result()
    slow = result["uniform"][0]["measured"]
    slow["latency_ratio"], slow["latency_ms"] = 6.0, 6 * result["baseline"]["latency_ms"]
    drawn = pareto.draw(result)
    (mark,) = [m for m in marks(drawn, "uniform") if "6.00× latency" in m.get("data-tip")]
    assert float(mark.get("x")) == pytest.approx(pareto.RIGHT, abs=0.1)
    assert all(float(m.get("x")) <= pareto.RIGHT + 0.1 for m in marks(drawn))


def test_the_budget_line_needs_a_budget():
    result = make_result()
    drawn = pareto.draw(result)
    assert "budget 0.75×" in drawn
    (line,) = elements(drawn, "budget")
    assert scale(ticks(drawn)[0])(numbers(line)[0]) == pytest.approx(0.75, abs=0.001)
    del result["settings"]["budget"]
    drawn = pareto.draw(result)
    assert "budget 0.75×" not in drawn
    assert not elements(drawn, "budget")


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


def test_the_legend_names_every_method_with_its_mark():
    result = make_result()
    drawn = pareto.draw(result)
    names = [e.text for e in elements(drawn, "legend")]
    assert names[:3] == ["searched, measured", "searched, predicted", "chosen"]
    assert names[3:-1] == sorted({u["method"] for u in result["uniform"] if u["measured"]})
    looks = {m.get("data-series"): m.get("class") for m in elements(drawn, "mark") if not m.get("data-tip")}
    for mark in marks(drawn, "uniform"):
        assert mark.get("class").replace(" healed", "") == looks[mark.get("data-series")]


def test_alone_it_is_a_complete_svg_file(tmp_path):
    path = pareto.write_svg(make_result(), tmp_path / "pareto.svg")
    root = ElementTree.parse(path).getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in root.find("{http://www.w3.org/2000/svg}style").text
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_result_still_has_axes_and_the_original():
    assert len(marks(pareto.draw({}))) == 1
