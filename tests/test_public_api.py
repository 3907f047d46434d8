"""What users import: the names, that they are light until used, and that each does what its line says."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import layersmith
from layersmith.errors import UserError
from tests import forked

ROOT = Path(__file__).resolve().parents[1]
NAMES = {
    "apply",
    "build",
    "catalogue",
    "construct",
    "explain",
    "export",
    "load",
    "measure",
    "race",
    "refit",
    "save",
    "sites",
    "swap",
}


@pytest.fixture(scope="module")
def pocket():
    return layersmith.load("pocket")


@pytest.fixture
def model(pocket):
    import copy

    return copy.deepcopy(pocket[0])


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(12)[None]).logits


def test_the_names() -> None:
    from layersmith import api

    assert set(layersmith.__all__) == NAMES | {"__version__"}
    assert set(api.__all__) >= NAMES
    for name in NAMES - {"catalogue"}:
        assert getattr(layersmith, name) is getattr(api, name)
        assert callable(getattr(layersmith, name))
        assert getattr(layersmith, name).__doc__, name
    with pytest.raises(AttributeError):
        layersmith.no_such_name  # noqa: B018


def test_importing_layersmith_imports_nothing_heavy() -> None:
    code = "import sys, layersmith; print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_sites_are_iterated_and_indexed(model) -> None:
    sites = layersmith.sites(model)
    assert [site.name for site in sites] == [site.name for site in sites.sites]
    assert len(sites) == len(sites.sites)
    assert sites["layers.1.ffn"].kind == "ffn"
    assert sites[0] is sites.sites[0]
    with pytest.raises(UserError, match=r"layers\.1\.ffn"):
        sites["layers.1.fnn"]


def test_build_names_what_it_does_not_know() -> None:
    assert layersmith.build("glu", d_model=8, d_hidden=16)(torch.zeros(1, 8)).shape == (1, 8)
    with pytest.raises(UserError, match="glu"):
        layersmith.build("gluu", d_model=8)
    with pytest.raises(UserError, match="wide"):
        layersmith.build("glu", d_model=8, wide=3)


def test_a_pattern_gives_every_site_a_part_of_its_own(model) -> None:
    before, part = logits(model), layersmith.build("glu", d_model=192, d_hidden=16)
    with layersmith.swap(model, {"layers.*.ffn": part}):
        standing = [model.get_submodule(s.modules[0]) for s in layersmith.sites(model).of_kind("ffn")]
        assert standing[0] is part
        assert len({id(module) for module in standing}) == len(standing)
        assert not torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)


def test_two_patterns_of_one_site_are_refused(model) -> None:
    part = layersmith.build("glu", d_model=192, d_hidden=16)
    with (
        pytest.raises(UserError, match="chosen twice"),
        layersmith.swap(model, {"layers.*.ffn": part, "layers.3.*n": part}),
    ):
        pass


def test_what_is_applied_is_saved_and_loads(model, pocket, tmp_path) -> None:
    edits = layersmith.apply(model, {"layers.*.ffn": layersmith.build("glu", d_model=192, d_hidden=16)})
    layersmith.save(model, edits, tmp_path / "m", pocket[1])
    again, tokenizer = layersmith.load(tmp_path / "m")
    # Stored in the dtype of its source, which for pocket is fp16.
    torch.testing.assert_close(logits(again), logits(model), atol=2e-2, rtol=1e-2)
    assert type(again.base.get_submodule("model.layers.1.mlp")).__name__ == "GLU"
    assert tokenizer is not None


def test_only_operators_are_kept(model) -> None:
    import copy

    before = logits(model)
    other = copy.deepcopy(model.get_submodule(layersmith.sites(model)["layers.1.ffn"].modules[0]))
    with pytest.raises(UserError, match="no operator"):
        layersmith.apply(model, {"layers.0.ffn": other})
    assert torch.equal(logits(model), before)


def test_results_are_frozen_and_have_a_document(model) -> None:
    found = layersmith.measure(model, data="random", at="prefill=1x8", windows=1, rounds=1)
    assert found["schema"] == found.to_json()["schema"] == "layersmith.measure/1"
    assert found.against is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.model = {}


def test_an_example_stands_in_the_list() -> None:
    written = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert written
    assert all(f"`{name}`" in (ROOT / "examples" / "README.md").read_text(encoding="utf-8") for name in written)


def run_example(name: str, *arguments: str, folder: Path) -> str:
    return forked.program(ROOT / "examples" / name, *arguments, folder=folder)


def test_the_example_of_a_swap_runs(tmp_path) -> None:
    assert "saved and loaded" in run_example("swap_and_save.py", folder=tmp_path)


def test_the_example_of_an_explanation_runs(tmp_path) -> None:
    told = run_example("explain.py", str(tmp_path / "out"), folder=tmp_path)
    assert "beats the linear floor" in told or "every floor" in told or "does NOT beat the linear floor" in told
    assert (tmp_path / "out" / "map" / "report.html").is_file()


@pytest.mark.real
def test_the_example_of_a_race_runs(tmp_path) -> None:
    shown = run_example("race.py", str(tmp_path / "out"), folder=tmp_path)
    assert "deltanet #2" in shown
    assert "'oracle': 1.0" in shown


@pytest.mark.real
def test_the_example_of_a_refit_runs(tmp_path) -> None:
    assert "budget met: True" in run_example("refit_pocket.py", str(tmp_path / "out"), folder=tmp_path)
