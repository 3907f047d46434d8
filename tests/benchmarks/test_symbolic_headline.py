"""Equations in feed-forwards: which places are taken, what is measured of what stands there, and what is made of it."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

import layersmith
from layersmith import catalogue
from layersmith.anatomy import find_sites
from layersmith.contract import stored_bytes
from layersmith.errors import MissingExtra
from layersmith.explaining.formula import Formula
from layersmith.explaining.tool import Observed

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module("symbolic_headline")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def pocket():
    return layersmith.load("pocket")[0].requires_grad_(False)


def equations(width: int, trees: list) -> torch.nn.Module:
    return catalogue.build({"name": "equations", "d_model": width, "inputs": 2, "equations": trees})


def test_without_the_engine_it_says_what_to_install(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(self: Formula, settings: dict) -> None:
        raise MissingExtra("pyoperon", "formula", "Symbolic regression")

    monkeypatch.setattr(Formula, "check", missing)
    monkeypatch.setattr(sys, "argv", ["symbolic_headline.py", "pocket"])
    with pytest.raises(SystemExit, match=r"pyoperon.*pip install"):
        benchmark.main()


def test_places_are_spread_and_the_middle_one_is_in_every_set(benchmark: ModuleType, pocket) -> None:
    sites = benchmark.seven(find_sites(pocket))
    assert [site.name for site in sites] == [f"layers.{layer}.ffn" for layer in range(1, 8)]
    assert all(len(places) == count for count, places in benchmark.SETS.items())
    assert set(benchmark.SETS[1]) < set(benchmark.SETS[3]) < set(benchmark.SETS[7])


def test_variants_are_measured_beside_the_original(benchmark: ModuleType, pocket) -> None:
    """No output, the feed-forward between all of its directions (which is itself), and equations without a number."""
    anatomy = find_sites(pocket)
    sites, width = benchmark.seven(anatomy), 192
    draws = torch.Generator().manual_seed(0)
    rows = torch.randn(256, width, generator=draws)
    parts = {}
    for site in sites:
        module = pocket.get_submodule(site.modules[0])
        whole = benchmark.Directions.of(rows, width), benchmark.Directions.of(module(rows), width)
        parts[site] = {
            "equations": equations(width, [["div", 1.0, ["sub", "x0", "x0"]], "x1"]),
            "projected": benchmark.Projected(module, *whole),
            "zero": catalogue.build({"name": "zero", "d_model": width}),
        }
    variants = benchmark.made(pocket, parts)
    assert {key: len(edits) for key, edits in variants.items()} == {
        (count, way): count for count in (1, 3, 7) for way in ("equations", "projected", "zero")
    }
    ids = torch.randint(pocket.config.vocab_size, (2, 32), generator=draws)
    found = {(row["layers"], row["way"]): row for row in benchmark.measured(pocket, variants, [{"input_ids": ids}])}
    first = found[0, "original"]
    assert (first["divergence"], first["agreement"], first["bytes_share"]) == (pytest.approx(0, abs=1e-6), 1.0, 1.0)
    for count in (1, 3, 7):
        assert found[count, "projected"]["divergence"] == pytest.approx(0, abs=1e-3)
        assert found[count, "equations"]["divergence"] == math.inf
        assert found[count, "equations"]["nodes"] == count * (5 + 1)
        held = sum(stored_bytes(pocket.get_submodule(site.modules[0])) for site in sites[:count])
        assert found[count, "zero"]["bytes_share"] == pytest.approx(1 - held / stored_bytes(pocket), rel=1e-6)
    assert found[7, "zero"]["divergence"] > found[1, "zero"]["divergence"] > 0.01
    assert "bytes_share" not in found[1, "projected"]


@pytest.mark.parametrize(
    ("prefill", "decode", "verdict"),
    [(1.05, 1.03, "held"), (1.05, 1.01, "partly"), (0.9, 1.01, "did not hold")],
)
def test_verdicts_are_about_speed_and_what_is_beaten_is_told(
    benchmark: ModuleType, prefill: float, decode: float, verdict: str
) -> None:
    divergences = {"equations": 0.5, "zero": 0.7, "linear": 0.1, "passed_on": math.inf}
    rows = [{"layers": 3, "way": way, "divergence": value} for way, value in divergences.items()]
    rows.append({"layers": 1, "way": "mean", "divergence": 9.0})
    clocks = {(3, "equations"): {"prefill_faster": prefill, "decode_faster": decode}}
    found = benchmark.with_verdicts(rows, clocks)
    assert found[0]["verdict"] == verdict
    assert found[0]["nearer_than"] == "zero passed_on"
    assert found[0]["prefill_faster"] == prefill
    assert not any("verdict" in row for row in found[1:])


def test_equations_are_kept_as_they_are_found(
    benchmark: ModuleType, pocket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = find_sites(pocket).site("layers.1.ffn")
    part, calls = equations(192, [["mul", 1.5, "x0"], "x1"]), []

    def found(self: Formula, observed: Observed, settings: dict, tell: object) -> benchmark.Any:
        calls.append(settings)
        return type("Found", (), {"module": part})

    monkeypatch.setattr(Formula, "explain", found)
    x = torch.randn(4, 192)
    for _ in range(2):
        workspace = benchmark.Workspace(tmp_path / "run", {})
        again = benchmark.written(site, Observed(x, x, None, part), {}, workspace)
        workspace.close()
        torch.testing.assert_close(again(x), part(x))
    assert len(calls) == 1
