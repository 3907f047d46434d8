"""The layout: a bar per kept sublayer, an outline per changed one, one outline for a block replaced as a whole."""

from xml.etree import ElementTree

import pytest

from layersmith.report import layout
from layersmith.report.reading import place

from .results import make_result


def found(result, style):
    """Bars or outlines, each with its tooltip and its width in thousandths of a stack's."""
    everything = []
    for grid in ElementTree.fromstring(f"<div>{layout.draw(result)}</div>").iter("div"):
        if "layers" not in grid.get("class", "").split():
            continue
        columns = [float(width.rstrip("fr")) for width in grid.get("style").removeprefix("--columns:").split()]
        for row in grid[1:]:
            whole = any("whole" in each.get("class", "") for each in row)
            for slot, column in zip(row, [0, sum(columns[1:-1])] if whole else columns, strict=False):
                for each in slot.iter("i"):
                    if each.get("class") == style:
                        share = float(each.get("style").removeprefix("width:").rstrip("%"))
                        everything.append((slot.get("data-tip"), share * column))
    return everything


@pytest.mark.parametrize("layers", [8, 30, 80])
def test_every_site_is_drawn(layers):
    result = make_result(layers=layers)
    choice = result["chosen"]["choice"]
    block = f"layers.{layers // 2}"
    assert all(choice[f"{block}.{part}"] == f"{block}/drop/default" for part in ("attn", "ffn"))
    changed = [c for c in choice.values() if c != "keep"]
    blocks = {c for c in changed if place(c.split("/")[0]).role == "block"}
    assert len(found(result, "bar")) == len(choice) - len(changed)
    assert len(found(result, "ghost")) == len(changed) - 3 * len(blocks)  # a block's four sites are one outline


def test_widths_are_proportional_to_latency():
    result = make_result()
    result["chosen"]["choice"] = dict.fromkeys(result["chosen"]["choice"], "keep")
    sites = {s["name"]: s for s in result["sites"]}
    bars = {tip.split("\n")[0]: width for tip, width in found(result, "bar")}
    assert bars.keys() == result["chosen"]["choice"].keys()
    scales = [width / sites[name]["latency_ms"] for name, width in bars.items()]
    assert min(scales) == pytest.approx(max(scales), rel=0.01)  # widths are written to a hundredth of a per cent


def test_a_changed_bar_has_its_candidates_width():
    result = make_result()
    candidate = next(c for c in result["candidates"] if c["id"] == "layers.1.ffn/width/keep=0.5")
    result["chosen"]["choice"] = {s: "keep" for s in result["chosen"]["choice"]} | {"layers.1.ffn": candidate["id"]}
    ((tip, bar),), ((_, outline),) = found(result, "bar changed"), found(result, "ghost")
    assert tip.startswith("layers.1.ffn\n")
    site = next(s for s in result["sites"] if s["name"] == "layers.1.ffn")
    share = candidate["latency_ms"] / site["latency_ms"]
    assert bar == pytest.approx(share * outline, rel=0.02)


def test_a_site_decided_elsewhere_says_so():
    result = make_result()
    dropped = "layers.1.attn/drop/default"
    result["chosen"]["choice"] |= {"layers.1.attn": dropped, "layers.1.attn_norm": dropped}
    tips = [tip for tip, _ in found(result, "ghost")]
    assert any("layers.1.attn_norm" in t and "decided by drop at layers.1.attn" in t for t in tips)


def test_a_norm_outside_the_layers_has_its_own_row_and_no_column():
    result = make_result()
    result["sites"].append({"name": "final_norm", "kind": "norm", "params": 192, "latency_ms": 0.05})
    drawn = layout.draw(result)
    assert drawn.count("<span>final norm</span>") == 1
    assert len(found(result, "bar")) == len(found(make_result(), "bar")) + 1


def test_stacks_are_drawn_apart():
    result = make_result(layers=3)
    other = make_result(layers=2, stack="decoder")
    result["sites"] += other["sites"]
    result["candidates"] += other["candidates"]
    result["chosen"]["choice"] |= other["chosen"]["choice"]
    assert layout.draw(result).count('class="layers"') == 2


def test_without_latencies_it_is_drawn_by_parameters():
    result = make_result()
    for part in result["sites"] + result["candidates"]:
        part["latency_ms"] = None
    assert ">parameters</span>" in layout.draw(result)


def test_changes_in_words():
    result = make_result()
    result["chosen"]["choice"] = {"layers.0.ffn": "layers.0.ffn/drop/default", "layers.1.ffn": "keep"}
    assert layout.changes(result) == "1 of 2\u00a0sites changed: 1 by drop."
    assert layout.changes({}) == "Nothing was changed."


def test_nothing_to_draw():
    assert layout.draw({}) is None
    assert layout.draw({"sites": [], "chosen": {"choice": {}}}) is None
