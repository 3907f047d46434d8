"""Dictionaries beside each other: what stands behind a sublayer is judged as in its place, and verdicts go right."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from layersmith import catalogue
from layersmith.anatomy import find_sites, original
from layersmith.explaining.capture import capture
from layersmith.explaining.dictionaries.recipe import KINDS, Recipe
from layersmith.explaining.dictionary import Reconstructed
from layersmith.explaining.judge import judge
from layersmith.ffn.sparse_dictionary import SparseDictionary
from layersmith.runs.workspace import Workspace
from tests.explaining.conftest import tiny

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("dictionaries")
    finally:
        sys.path.remove(str(BENCHMARKS))


def job_of(benchmark: ModuleType):
    model = tiny("llama").requires_grad_(False)
    draws = torch.Generator().manual_seed(0)
    batches = [{"input_ids": torch.randint(4096, (2, 24), generator=draws)} for _ in range(2)]
    return benchmark.Run(model, find_sites(model), batches, None, Recipe(expansion=2, k=4), range(2))


def test_behind_a_feed_forward_the_figures_are_those_of_the_judge(benchmark: ModuleType) -> None:
    job = job_of(benchmark)
    site, part = job.anatomy.site("layers.0.ffn"), SparseDictionary(32, 64, 4)
    modules = {name: catalogue.build({"name": "zero", "d_model": 32}) for name in ("zero", "mean")}
    modules["sae 0"] = Reconstructed(original(job.model, site), part)
    table = judge(job.model, job.anatomy, site, modules, job.held_out, lambda text, done, total: None)
    whole, found = benchmark.behind(job, site, {"sae 0": part})
    assert found["sae 0"]["divergence"] > 1e-3
    for figure in ("local_error", "divergence", "agreement", "loss"):
        assert found["sae 0"][figure] == pytest.approx(table["sae 0"][figure], rel=1e-5), figure
    again = benchmark.recovered(table["zero"]["loss"], found["sae 0"]["loss"], whole)
    assert again == pytest.approx(table["sae 0"]["loss_recovered"], rel=1e-4)


def test_what_stands_behind_a_mixer_changes_what_it_writes_and_nothing_else(benchmark: ModuleType) -> None:
    job = job_of(benchmark)
    site, silent = job.anatomy.site("layers.1.attn"), nn.Linear(32, 32).requires_grad_(False)
    for parameter in silent.parameters():
        parameter.zero_()
    whole, found = benchmark.behind(job, site, {"same": nn.Identity(), "silent": silent})
    assert found["same"]["loss"] == pytest.approx(whole)
    assert (found["same"]["local_error"], found["same"]["agreement"]) == (0.0, 1.0)
    modules = {name: catalogue.build({"name": "zero", "d_model": 32}) for name in ("zero", "mean")}
    table = judge(job.model, job.anatomy, site, modules, job.held_out, lambda text, done, total: None)
    assert found["silent"]["local_error"] == pytest.approx(1.0)
    assert found["silent"]["divergence"] == pytest.approx(table["zero"]["divergence"], rel=1e-5)
    assert found["silent"]["divergence"] > 1e-3


def test_all_sites_are_observed_in_one_run_as_each_alone(benchmark: ModuleType, tmp_path: Path) -> None:
    job = job_of(benchmark)
    sites = [job.anatomy.site(name) for name in ("layers.0.attn", "layers.1.ffn")]
    workspace = Workspace(tmp_path / "run", {})
    for site, observed in benchmark.observed_at(job.model, sites, job.held_out):
        alone = capture(job.model, site, job.held_out, workspace, lambda text, done, total: None)
        torch.testing.assert_close(observed.inputs, alone.inputs)
        torch.testing.assert_close(observed.outputs, alone.outputs)
        assert torch.equal(observed.ids, alone.ids)
    assert benchmark.observed_at(job.model, [], job.held_out) == []
    workspace.close()


def test_active_features_are_counted(benchmark: ModuleType) -> None:
    part = SparseDictionary(2, 3, k=2).requires_grad_(False)
    part.encoder.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))
    rows = torch.tensor([[2.0, 1.0], [1.0, -5.0], [0.5, 0.0], [3.0, 3.0]])
    assert benchmark.activity(part, rows[[0, 3]]) == {"active": 2.0, "never": pytest.approx(1 / 3)}
    assert benchmark.activity(part, rows) == {"active": (2 + 2 + 1 + 2) / 4, "never": 0.0}


def test_what_seeds_share_is_the_mean_over_pairs(benchmark: ModuleType) -> None:
    torch.manual_seed(0)
    first, other = SparseDictionary(64, 96, 4), SparseDictionary(64, 96, 4)
    assert benchmark.shared([first]) is None
    assert benchmark.shared([first, first]) == 1.0
    assert benchmark.shared([first, other]) < 0.1
    assert benchmark.shared([first, first, other]) == pytest.approx((1 + 2 * benchmark.shared([first, other])) / 3)


def test_sites_are_spread_over_the_depth(benchmark: ModuleType) -> None:
    anatomy = find_sites(tiny("llama"))
    assert [site.name for site in benchmark.chosen(anatomy, "layers.1.attn,layers.0.ffn")] == [
        "layers.1.attn",
        "layers.0.ffn",
    ]
    assert [site.name for site in benchmark.chosen(anatomy, None)] == [
        "layers.0.ffn",
        "layers.0.ffn",
        "layers.1.ffn",
        "layers.0.attn",
    ]


def test_batches_are_taken_until_they_hold_enough(benchmark: ModuleType) -> None:
    batches = [{"input_ids": torch.zeros(1, 10)} for _ in range(4)]
    assert [len(benchmark.first_tokens(batches, wanted)) for wanted in (1, 10, 11, 40, 99)] == [1, 1, 2, 4, 4]


@pytest.mark.parametrize(
    ("transcoders", "autoencoders", "found"),
    [
        ((1.0, 1.2), (1.5, 1.3), "held"),
        ((1.09, 1.0), (1.0, 1.0), "held"),
        ((1.2, 1.3), (1.0, 1.05), "did not hold"),
        ((1.0, 1.5), (1.2, 1.2), "not seen at this size"),
    ],
)
def test_verdicts(benchmark: ModuleType, transcoders, autoencoders, found: str) -> None:
    table = {f"transcoder {seed}": {"divergence": value} for seed, value in enumerate(transcoders)}
    table |= {f"sae {seed}": {"divergence": value} for seed, value in enumerate(autoencoders)}
    assert benchmark.verdict("ffn", table, "transcoder", range(2)) == found
    assert benchmark.verdict("mixer", table, "transcoder", range(2)) is None
    assert benchmark.verdict("ffn", table, "sae", range(2)) is None


def test_a_run_is_written_and_taken_up_again(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On pocket: a row for every dictionary, control and floor; finished sites are not trained again."""
    monkeypatch.setattr(sys.modules["record"], "RESULTS", tmp_path / "results")
    sizes = ["--tokens", "512", "--held-out", "256", "--expansion", "1", "--k", "8", "--steps", "4"]
    words = ["dictionaries.py", "pocket", *sizes, "--sites", "layers.1.ffn,layers.2.attn"]
    monkeypatch.setattr(sys, "argv", [*words, "--out", str(tmp_path / "out")])
    benchmark.main()
    with (tmp_path / "results" / "dictionaries-pocket.csv").open(encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    expected = [kind for kind in KINDS for _ in range(2)] + [f"{kind} shuffled" for kind in KINDS]
    for site in ("layers.1.ffn", "layers.2.attn"):
        own = [row for row in rows if row["site"] == site]
        assert [row["what"] for row in own][:-1] == [*expected, "zero", "mean", "linear"]
        assert own[-1]["what"].startswith("rank ")
        assert all(float(row["divergence"]) > 0 for row in own)
        assert [row["features"] for row in own[:6]] == ["192"] * 6
        assert all(0 < float(row["active"]) <= 8 for row in own[:6])
        assert [bool(row["verdict"]) for row in own[:6]] == [site.endswith("ffn")] * 4 + [False] * 2
    assert {(row["k"], row["steps"]) for row in rows} == {("8", "4")}
    monkeypatch.setattr(benchmark, "train", lambda *arguments: pytest.fail("a finished dictionary is trained again"))
    benchmark.main()
