"""Wires: planted modules are told by how far they read, and recorded shapes are those that hooks of the test see."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from layersmith.errors import UserError
from layersmith.explaining.measures.axes import reach
from layersmith.explaining.pipeline import explain
from layersmith.explaining.wires import Wires, _sections, folded
from layersmith.report.wires_chart import draw
from tests.explaining.conftest import VOCABULARY, tiny

PLANTED = {
    "scaled": (lambda x: 3 * x + 1, ("none", "none", "none")),
    "a map of channels": (lambda x: x @ torch.ones(4, 4), ("none", "none", "all")),
    "a sum of the past": (lambda x: x.cumsum(1), ("none", "earlier", "none")),
    "a mean over examples": (lambda x: x - x.mean(0), ("all", "none", "none")),
    "a mean over tokens": (lambda x: x + x.mean(1, keepdim=True), ("none", "all", "none")),
    "other channels": (lambda x: x[..., :2], ("none", "none", "all")),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_modules(name: str) -> None:
    call, expected = PLANTED[name]
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    assert tuple(reach(call, x, axis) for axis in range(3)) == expected


def test_one_place_tells_nothing() -> None:
    assert reach(lambda x: 2 * x, torch.randn(1, 5, 4), 0) is None


@pytest.mark.parametrize(
    ("shape", "attention", "tokens"), [("llama", "layers.0.attn", "earlier"), ("bert", "layers.0.attn", "all")]
)
def test_sublayers_of_a_model(shape: str, attention: str, tokens: str, tokenizer, tmp_path) -> None:
    model = tiny(shape)
    found = explain(
        model, tool="wires", tokenizer=tokenizer, tokens=256, progress=False, settings={"tokens": 6}, out=tmp_path / "o"
    )
    steps = {step["site"]: step for step in found["survey"]["steps"]}
    assert steps[attention]["axes"] == {"batch": "none", "tokens": tokens, "channels": "all"}
    assert steps["layers.1.ffn"]["axes"] == {"batch": "none", "tokens": "none", "channels": "all"}
    assert all(step["reads"] == step["writes"] == [2, 6, 32] for step in steps.values())
    page = (tmp_path / "o" / "report.html").read_text()
    assert "sublayers on 3 wires" in page
    if shape == "llama":
        seen: list[torch.Size] = []
        model.model.layers[1].mlp.register_forward_hook(lambda module, given, output: seen.append(output.shape))
        model(torch.randint(VOCABULARY, (2, 6)))
        assert steps["layers.1.ffn"]["writes"] == list(seen[0])


def test_the_model_is_left_without_hooks(tokenizer, tmp_path) -> None:
    model = tiny("llama")
    explain(model, tool="wires", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o")
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def step(site: str, **others: object) -> dict:
    axes = {"batch": "none", "tokens": "earlier", "channels": "all"}
    return {"site": site, "part": "Part", "reads": [2, 6, 8], "writes": [2, 6, 8], "params": 5, "axes": axes, **others}


def test_sublayers_of_other_axes_stand_on_wires_of_their_own() -> None:
    pooled = step("final_norm", reads=[2, 8], writes=[2, 8], axes={"rows": "none", "channels": "all"})
    (made,) = _sections([step("layers.0.ffn"), pooled])
    assert made["wires"]["axes"] == ["batch", "tokens", "channels", "rows"]
    assert made["table"]["rows"][1][4:] == ["–", "–", "all", "none"]
    assert "2 sublayers on 4 wires" in str(draw(made["wires"], "wires"))


def test_layers_that_are_alike_are_drawn_once() -> None:
    steps = [step(f"layers.{i}.{role}") for i in range(4) for role in ("attn", "ffn")]
    assert [s["site"] for s in folded(steps)] == ["layers.0-3.attn", "layers.0-3.ffn"]
    steps[5]["params"] = 6
    assert [s["site"] for s in folded(steps)][2:] == ["layers.2.attn", "layers.2.ffn", "layers.3.attn", "layers.3.ffn"]
    assert [s["site"] for s in folded([*steps[:2], step("norm")])] == ["layers.0.attn", "layers.0.ffn", "norm"]


def test_a_box_stands_on_the_wires_it_works_along_and_sizes_where_they_change() -> None:
    only_channels = {"batch": "none", "tokens": "none", "channels": "all"}
    steps = [step("a"), step("b", axes=only_channels), step("c", writes=[2, 6, 16])]
    svg = str(draw({"axes": list(only_channels), "steps": steps}, "wires"))
    told = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    assert told == ["batch", "tokens", "channels", "a", "2", "6", "8", "b", "c", "16"]
    tips = re.findall(r'data-tip="([^"]*)"', svg)
    assert [tip.split()[0] for tip in tips] == ["a", "a", "b", "c", "c"]
    assert svg.count('class="edge for e4"') == 2
    assert svg.count('class="base"') == 3


def test_an_axis_needs_places() -> None:
    with pytest.raises(UserError, match="at least 2"):
        Wires().check({"tokens": 1})


def test_nothing_of_a_planted_module_is_changed() -> None:
    layer, x = nn.Linear(4, 4), torch.randn(2, 3, 4)
    before = x.clone()
    reach(layer, x, 1)
    assert torch.equal(x, before)
