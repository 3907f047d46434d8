"""The map of four bits: cases by hand, weights that the format holds, the planted sensitive one, and refusals."""

from __future__ import annotations

import copy

import pytest
import torch

from layersmith.errors import UserError
from layersmith.explaining.fp4 import FP4Map
from layersmith.explaining.pipeline import explain
from layersmith.ffn.swap_test import SwapTest
from layersmith.linear.fp4 import FP4Linear
from tests.explaining.conftest import tiny


def survey(model: torch.nn.Module, tokenizer, out, **settings: str) -> dict:
    return explain(model, tool="fp4", tokenizer=tokenizer, tokens=256, progress=False, out=out, settings=settings)[
        "survey"
    ]


@pytest.mark.parametrize(("format", "block"), [("nvfp4", 16), ("mxfp4", 32)])
def test_every_component_and_every_block_is_looked_at_once(format, block, tokenizer, tmp_path) -> None:
    model = tiny("llama")
    before = copy.deepcopy(model.state_dict())
    found = survey(model, tokenizer, tmp_path / "o", format=format)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    inside = [(n, m.weight) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and "layers" in n]
    held = [(n, w) for n, w in inside if w.shape[1] % block == 0]
    # Feed-forwards are 48 wide, which 32 does not divide.
    assert len(found["skipped"]) == len(inside) - len(held) == (0 if block == 16 else 2)
    weights = sum(w.numel() for _, w in held)
    for part in ("components", "blocks"):
        assert sum(case["weights"] for case in found[part].values()) == weights
    assert set(found["components"]) == {n.split(".", 3)[3] for n, _ in held}
    assert set(found["blocks"]) == {"layers.0", "layers.1"}
    name = "self_attn.q_proj"
    wrong = total = 0.0
    for _, w in [(n, w.double()) for n, w in held if n.endswith(name)]:
        wrong += float((FP4Linear.from_weight(w.float(), format).dense_weight() - w).square().sum())
        total += float(w.square().sum())
    assert found["components"][name]["weight_error"] == pytest.approx(wrong / total, rel=1e-4)
    assert all(case["divergence"] > 0 for case in found["blocks"].values())
    assert found["everything"]["divergence"] > max(case["divergence"] for case in found["components"].values()) * 0.5
    assert "Component by component" in (tmp_path / "o" / "report.html").read_text()


def test_weights_that_the_format_holds_move_nothing(tokenizer, tmp_path) -> None:
    model = tiny("gpt2")  # whose matrices are transposed
    with torch.no_grad():
        for name, module in model.named_modules():
            if type(module).__name__ == "Conv1D" and "mlp" in name:
                module.weight.copy_(FP4Linear.from_weight(module.weight.T.contiguous(), "mxfp4").dense_weight().T)
    found = survey(model, tokenizer, tmp_path / "o", format="mxfp4")["components"]
    assert found["mlp.c_fc"]["weight_error"] == found["mlp.c_proj"]["weight_error"] == 0
    assert abs(found["mlp.c_fc"]["divergence"]) < 1e-6
    assert found["attn.c_attn"]["divergence"] > 1e-5
    assert found["attn.c_attn"]["weight_error"] > 1e-3


def test_a_block_that_says_nothing_is_not_sensitive(tokenizer, tmp_path) -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
    found = survey(model, tokenizer, tmp_path / "o")["blocks"]
    assert abs(found["layers.0"]["divergence"]) < 1e-6 < found["layers.1"]["divergence"]
    assert found["layers.0"]["weight_error"] > 1e-3, "its weights are wrong all the same"


def test_a_matrix_whose_weight_is_read_and_not_called_stays_as_it_is(tokenizer, tmp_path) -> None:
    model = tiny("llama")
    for layer in model.model.layers:
        layer.mlp = SwapTest(32, 16).eval()
    found = survey(model, tokenizer, tmp_path / "o", format="nvfp4")
    assert {name for name in found["components"] if "mlp" in name} == {"mlp.down"}


def test_other_formats_are_refused() -> None:
    with pytest.raises(UserError, match="nvfp4, mxfp4"):
        FP4Map().check({"format": "fp8"})
