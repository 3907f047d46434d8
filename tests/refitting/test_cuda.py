"""Refitting on a CUDA device: every method builds there, and the whole job runs there, interrupted healing included."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch

from layersmith.anatomy import Replay, find_sites
from layersmith.checkpoint import load
from layersmith.refitting import methods
from layersmith.refitting.build.block_library import LibrarySettings, build_block
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches, Sizes, prepare
from layersmith.refitting.calibrate.taylor import taylor_scores
from layersmith.refitting.candidate import Library
from layersmith.refitting.heal.distillation import HealSettings, heal
from layersmith.refitting.pipeline import refit
from layersmith.runs.workspace import Workspace

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
BLOCK = "layers.3"


@pytest.fixture(scope="module")
def pocket():
    model, tokenizer = load("pocket", device=DEVICE)
    return model.requires_grad_(False), tokenizer


@pytest.fixture(scope="module")
def text(pocket) -> Batches:
    return prepare(*pocket, "stdlib", Sizes(calibration=8, search=2, report=1, heal=8), seed=0)


@pytest.fixture(scope="module")
def calibrated(pocket, text, tmp_path_factory):
    model, _ = pocket
    workspace = Workspace(tmp_path_factory.mktemp("run") / "out", {})
    anatomy = find_sites(model)
    activations = Activations(Replay(model, anatomy), anatomy, text, workspace)
    activations.calibrate()
    return activations, taylor_scores(model, anatomy, text.fit, workspace)


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_builds_where_the_model_is(name: str, calibrated, tmp_path: Path) -> None:
    activations, statistics = calibrated
    anatomy, workspace = activations.anatomy, Workspace(tmp_path / "out", {})
    sites = [*(site.name for site in anatomy.in_block(BLOCK)), BLOCK]
    settings = LibrarySettings([name], sites, distill_steps=2)
    built = build_block(anatomy.site(BLOCK), activations, workspace, settings, statistics)
    found = [c for _, candidates in built.values() for c in candidates if c.method == name]
    assert found or any(name in report.refusals for report, _ in built.values())
    library = Library(workspace, [], device=activations.device)
    for candidate in found:
        assert math.isfinite(candidate.local_error)
        modules = [module for _, module in library.replacement(candidate)]
        assert all(t.device.type == DEVICE for module in modules for t in module.state_dict().values())


def test_interrupted_healing_goes_on(pocket, text, tmp_path: Path) -> None:
    model, _ = pocket
    workspace = Workspace(tmp_path / "out", {})

    def run(steps_seen: int) -> object:
        def tell(what: str, done: int, total: int) -> None:
            if done == steps_seen:
                raise KeyboardInterrupt

        student = copy.deepcopy(model).requires_grad_(True)
        student.model.layers[2].mlp.down_proj.weight.data.mul_(0.9)
        settings = HealSettings(steps=6, lr=3e-4, check_every=2)
        return heal(student, model, find_sites(model), text.heal, text.search, settings, workspace=workspace, tell=tell)

    with pytest.raises(KeyboardInterrupt):
        run(steps_seen=5)
    assert run(steps_seen=-1).curve[-1]["heldout_divergence"] < 0.1


def test_the_whole_job(tmp_path: Path) -> None:
    asked = {"budget": {"latency": 0.9}, "out": tmp_path / "out", "effort": 0.1, "progress": False}
    result = refit("pocket", device=DEVICE, **asked)
    assert result["settings"]["device"] == DEVICE
    assert result["environment"]["device"] != "cpu"
    assert result["heal"]["steps"] > 0
    assert result["reload_max_abs_diff"] <= 1e-4
    assert torch.get_default_device().type == "cpu"
