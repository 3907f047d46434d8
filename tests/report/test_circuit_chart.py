"""The drawing of a circuit: every edge, every node that has one, in the order in which the model runs them."""

from __future__ import annotations

import re

from layersmith.report.circuit_chart import draw
from layersmith.report.explained import section

STAGES = [["embed"], ["layers.0.attn.h0", "layers.0.attn.h1"], ["layers.0.ffn"], ["layers.1.attn"], ["logits"]]
EDGES = [
    ["embed", "layers.0.attn.h1", -2.0],
    ["layers.0.attn.h1", "layers.1.attn", 0.5],
    ["embed", "layers.1.attn", -0.1],
    ["layers.1.attn", "logits", -4.0],
]


def test_edges_are_as_wide_as_their_scores_and_unused_nodes_left_out() -> None:
    svg = str(draw({"stages": STAGES, "edges": EDGES}, "circuit"))
    assert sorted(re.findall(r'class="edge (\w+ e\d)"', svg)) == ["against e1", "for e1", "for e2", "for e4"]
    told = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert told == ["embed", "0.attn.h1", "1.attn", "logits"]
    assert 'data-tip="layers.1.attn: 3 edges"' in svg


def test_later_nodes_stand_higher() -> None:
    svg = str(draw({"stages": STAGES, "edges": EDGES}, "circuit"))
    heights = [float(y) for y in re.findall(r'<text[^>]* y="([\d.]+)"', svg)]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 4


def test_a_circuit_whose_scores_are_all_zero_is_drawn_too() -> None:
    flat = str(draw({"stages": STAGES, "edges": [[*edge[:2], 0.0] for edge in EDGES]}, "flat"))
    assert flat.count('class="edge for e1"') == 4


def test_a_section_has_the_drawing_and_the_list() -> None:
    table = {"columns": ["writer"], "rows": [["embed"]]}
    made = {"title": "The circuit", "graph": {"stages": STAGES, "edges": EDGES}, "table": table}
    content = str(section(made)["content"])
    assert content.index("<svg") < content.index("<table")
    assert "the-circuit-" in content
    assert "<svg" not in str(section({**made, "graph": {"stages": STAGES, "edges": []}})["content"])
