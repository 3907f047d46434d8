"""All that a refit makes, it makes where the model is: on a device that is not torch's default, played by CPU memory.

A method or stage that lets torch choose the place works on every machine without a GPU, and fails here.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from layersmith.anatomy import Replay
from layersmith.anatomy.edit import apply
from layersmith.anatomy.head import with_head
from layersmith.anatomy.sites import find_sites
from layersmith.measuring.divergence import divergence
from layersmith.refitting import methods
from layersmith.refitting.build.block_library import LibrarySettings, build_block
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches
from layersmith.refitting.calibrate.taylor import taylor_scores
from layersmith.refitting.candidate import Library
from layersmith.refitting.heal.adapters import ADAPTERS, build_adapter
from layersmith.refitting.heal.distillation import HealSettings, heal
from layersmith.refitting.score.replace_one import Scoring, worth_scoring
from layersmith.runs.workspace import Workspace
from tests.elsewhere import ELSEWHERE, elsewhere
from tests.refitting.conftest import tiny_batches, tiny_llama

BLOCK = "layers.1"


@pytest.fixture(scope="module")
def away(tmp_path_factory):
    """A tiny model with its text and its activations, all of it elsewhere."""
    with elsewhere():
        model = tiny_llama().to(ELSEWHERE).requires_grad_(False)
        here = vars(tiny_batches())
        text = Batches(**{name: [_moved(batch) for batch in here[name]] for name in here if name != "facts"})
        anatomy = with_head(model, find_sites(model))
        workspace = Workspace(tmp_path_factory.mktemp("away") / "run", {})
        activations = Activations(Replay(model, anatomy), anatomy, text, workspace)
        activations.calibrate()
        statistics = taylor_scores(model, anatomy, text.fit, workspace)
        yield SimpleNamespace(model=model, text=text, activations=activations, statistics=statistics)


def _moved(batch):
    return {name: tensor.to(ELSEWHERE) for name, tensor in batch.items()}


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_builds_where_the_model_is(name, away, tmp_path):
    anatomy, workspace = away.activations.anatomy, Workspace(tmp_path / "run", {})
    block = "head" if methods.get(name).kinds == ("head",) else BLOCK
    sites = [block, *(site.name for site in anatomy.in_block(block))]
    settings = LibrarySettings([name], sites, distill_steps=2)
    built = build_block(anatomy.site(block), away.activations, workspace, settings, away.statistics)
    found = [c for _, candidates in built.values() for c in candidates if c.method == name]
    assert found, {site: report.refusals for site, (report, _) in built.items()}
    view = away.activations.view(anatomy.site(found[0].site), 0, away.statistics.get(found[0].site, {}))
    for edit, module in methods.get(name).build(view, found[0].settings):
        assert all(t.device == ELSEWHERE for t in module.state_dict().values()), edit.path


def test_candidates_are_scored_and_a_mix_is_healed_there(away, tmp_path):
    anatomy, workspace = away.activations.anatomy, Workspace(tmp_path / "run", {})
    settings = LibrarySettings(["width"], [f"{BLOCK}.ffn"], distill_steps=0)
    built = build_block(anatomy.site(BLOCK), away.activations, workspace, settings, {})
    candidates = {c.id: c for _, found in built.values() for c in found}
    library = Library(workspace, ["width"], candidates, away.activations.device)
    scoring = Scoring(library, away.activations, workspace)
    scoring.look(worth_scoring(library, ["params"]))
    scoring.whole(library.offered())
    worst = max(library.offered(), key=lambda c: c.divergence)
    student = copy.deepcopy(away.model)
    apply(student, library.replacement(worst))
    before = divergence(away.model, student, away.text.search).value
    assert before > 0
    asked = HealSettings(steps=4, lr=1e-3, check_every=2)
    heal(
        student.requires_grad_(True), away.model, anatomy, away.text.heal, away.text.search, asked, workspace=workspace
    )
    assert divergence(away.model, student, away.text.search).value <= before
    assert all(t.device == ELSEWHERE for t in student.state_dict().values())


@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters_are_trained_there(name, away):
    student, adapter = copy.deepcopy(away.model), build_adapter(name)
    adapter.place(student, 0)
    with torch.no_grad():
        student.model.layers[0].self_attn.o_proj.weight.mul_(0.5)
    asked = HealSettings(steps=2, lr=1e-3, check_every=1, adapter=name)
    anatomy = away.activations.anatomy
    heal(student.requires_grad_(True), away.model, anatomy, away.text.heal, away.text.search, asked)
    assert all(t.device == ELSEWHERE for t in student.state_dict().values())


def test_the_trap_catches_what_torch_places_by_itself():
    with elsewhere():
        x = torch.ones(3, device=ELSEWHERE)
        with pytest.raises(RuntimeError, match="on the CPU"):
            x + torch.zeros(3)
        with pytest.raises(RuntimeError, match="on the CPU"):
            torch.nn.Linear(3, 2)(x)
        with pytest.raises(RuntimeError, match="generator of the CPU"):
            torch.rand(3, generator=torch.Generator(), device=ELSEWHERE)
        assert (x + torch.tensor(1.0)).device == ELSEWHERE
        assert torch.nn.Linear(3, 2).to(ELSEWHERE)(x[torch.arange(2)].repeat(2)[:3]).device == ELSEWHERE
        assert x.cpu().tolist() == [1.0, 1.0, 1.0]
