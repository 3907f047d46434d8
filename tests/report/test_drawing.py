"""What matplotlib draws as it stands on a page: ranges, ticks, classes, ids, tooltips, and the placing of names."""

import math
import re
import subprocess
import sys

import pytest

from layersmith.report import units
from layersmith.report.drawing import SHAPES, chart, keys, log_range, scale
from layersmith.report.labels import Name, place

from .charts import elements, marks, numbers, ticks


def drawn_with(bounds, name="one", **options):
    """A chart with one axis each way over `bounds`."""
    with chart(name, 400, 300, "a chart") as drawn:
        axes = drawn.axes(50, 20, 380, 250)
        scale(axes, "x", bounds, "{:.12g}".format, **options)
        scale(axes, "y", bounds, "{:.12g}".format, **options)
        return drawn.svg()


@pytest.mark.parametrize(("low", "high"), [(0.6, 1.02), (0.0, 300.0), (-0.5, 29.5), (0.2, 1.55)])
def test_linear_ticks_are_round_and_inside(low, high):
    across, up = ticks(drawn_with((low, high)))
    assert across.keys() == up.keys()
    assert 3 <= len(across) <= 12
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in across)
    first, second, *_ = sorted(across)
    assert f"{second - first:e}"[0] in "125"
    for value, pixel in across.items():
        assert pixel == pytest.approx(50 + 330 * (value - low) / (high - low), abs=0.02)
        assert up[value] == pytest.approx(250 - 230 * (value - low) / (high - low), abs=0.02)


@pytest.mark.parametrize(("low", "high"), [(0.004, 2.0), (1e-6, 1.0), (0.02, 0.3), (1e-12, 1e3)])
def test_log_ticks_stay_few_and_stand_where_their_logarithm_does(low, high):
    across, _ = ticks(drawn_with((low, high), log=True, about=10))
    assert 1 <= len(across) <= 16
    assert all(low <= t <= high for t in across)
    for value, pixel in across.items():
        assert pixel == pytest.approx(50 + 330 * math.log(value / low) / math.log(high / low), abs=0.02)


def test_layers_have_whole_numbers():
    across, _ = ticks(drawn_with((-0.5, 2.5), whole=True))
    assert sorted(across) == [0, 1, 2]


def test_log_range_never_touches_zero_and_spans_a_decade():
    for values in ([], [0.0], [0.02], [0.0, 1e-9, 0.5], [0.01, 0.011]):
        low, high = log_range(values, 1e-6)
        assert low > 0
        assert high / low >= 10 - 1e-9
        assert math.isfinite(high)
        assert all(low <= v <= high for v in values if v >= 1e-6)


def one_of_each(name="one"):
    with chart(name, 400, 300, 'a "chart"') as drawn:
        axes = drawn.axes(50, 20, 380, 250)
        scale(axes, "x", (0.0, 1.0), units.tick)
        scale(axes, "y", (0.0, 1.0), units.tick)
        drawn.line(axes, [(0, 0), (1, 1)], "curve", series="a")
        for index, shape in enumerate(("o", *SHAPES)):
            at = [(0.1 * index, 0.25), (0.1 * index, 0.75)]
            drawn.marks(axes, at, shape, 8, f"mark m{index}", tips=[f"{shape} low", f'{shape} "high"\n&'], series="b")
        axes.plot([0, 1], [1, 0])  # not put, so not shown
        drawn.text(10, 10, "$x$ \x00 < &", "panel-title")
        return drawn.svg()


def test_every_mark_carries_its_own_tooltip_and_shape():
    svg = one_of_each()
    for index, shape in enumerate(("o", *SHAPES)):
        low, high = marks(svg, f"m{index}")
        assert (low.get("data-tip"), high.get("data-tip")) == (f"{shape} low", f'{shape} "high"\n&')
        assert low.get("data-series") == high.get("data-series") == "b"
        assert [float(low.get(k)) for k in "xy"] == pytest.approx([50 + 33 * index, 250 - 0.25 * 230], abs=0.02)
        assert [float(high.get(k)) for k in "xy"] == pytest.approx([50 + 33 * index, 250 - 0.75 * 230], abs=0.02)
        assert low.get("href") == high.get("href")
    assert len({m.get("href") for m in marks(svg)}) == 1 + len(SHAPES)
    (line,) = elements(svg, "curve")
    assert numbers(line) == pytest.approx([50, 250, 380, 20])
    assert line.get("data-series") == "a"


def test_colours_sizes_and_dates_are_left_to_the_page():
    svg = one_of_each()
    assert svg.startswith(
        '<svg viewBox="0 0 400 300" role="img" aria-label="a &#34;chart&#34;" class="chart" style="width:'
    )
    for word in ("metadata", "#0000", "fill", "stroke", "xmlns", "http", "font", "clip", "<g", "xlink"):
        assert word not in svg, word
    lines = [e for e in elements(svg) if e.tag == "path" and e.get("class")]
    assert sorted({e.get("class") for e in lines}) == ["base", "curve", "grid"], "what was not put is not there"
    assert "$x$ \ufffd &lt; &amp;</text>" in svg, "neither mathematics nor markup"


def test_the_same_chart_is_the_same_text_and_two_charts_share_no_id():
    assert one_of_each() == one_of_each()
    ids, others = (re.findall(r' id="([^"]*)"', one_of_each(name)) for name in ("one", "two"))
    assert len(ids) == len(set(ids)) == 1 + len(SHAPES) + 1  # the shapes, and the tick under the base line
    assert not set(ids) & set(others)
    assert {h[1:] for h in re.findall(r'href="([^"]*)"', one_of_each())} == set(ids)


def test_a_users_own_style_takes_no_part(monkeypatch):
    import matplotlib

    before = one_of_each()
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30)
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "path")
    assert one_of_each() == before
    assert matplotlib.rcParams["font.size"] == 30, "and is not changed by it"


def test_matplotlib_is_imported_when_something_is_drawn():
    program = (
        "import sys; import layersmith.report, layersmith.report.raced; assert 'matplotlib' not in sys.modules;"
        "layersmith.report.render({}); assert 'matplotlib' in sys.modules;"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_keys_hold_a_mark_and_its_words():
    line = keys("key", [("o", 9, "mark measured", "built <and> measured"), ("s", 7, "mark uniform c3", "one method")])
    assert len(elements(line, "mark")) == len(elements(line, "sign")) == 2
    assert "</svg>built &lt;and&gt; measured</span>" in line


def boxes(names, points=(), size=10):
    """The boxes of the names that found a place, by their words, and the boxes of the marks."""
    with chart("names", 400, 300, "names") as drawn:
        axes = drawn.axes(0, 0, 400, 300)
        scale(axes, "x", (0.0, 400.0), units.tick)
        scale(axes, "y", (0.0, 300.0), units.tick)
        if points:
            drawn.marks(axes, points, "o", size, "mark")
        place(drawn, axes, [Name(at, words, "name") for at, words in names])
        found = {text.get_text(): text.get_window_extent() for text in axes.texts}
        assert len(elements(drawn.svg(), "name")) == len(found)
        return found


def test_names_avoid_marks_and_one_another():
    points = [(50, 50), (60, 50), (395, 295)]
    found = boxes([((50, 50), "first"), ((60, 50), "second"), ((395, 295), "at the edge")], points)
    assert list(found) == ["first", "second", "at the edge"]
    placed = list(found.values())
    for index, box in enumerate(placed):
        assert not box.count_overlaps(placed[:index] + placed[index + 1 :])
        assert min(box.x0, box.y0, 400 - box.x1, 300 - box.y1) >= 0
        for x, y in points:
            assert box.x1 <= x - 5 or box.x0 >= x + 5 or box.y1 <= y - 5 or box.y0 >= y + 5
    assert placed[2].x1 < 395, "the third has no room at its right"


def test_a_name_without_room_is_left_out():
    crowd = [(x, y) for x in range(0, 400, 15) for y in range(0, 300, 15)]
    assert boxes([((100, 100), "a name")], crowd, size=20) == {}
