"""Adapters at the end of a run: mixes that have no place for one, and baselines that keep one."""

from types import SimpleNamespace

import pytest
import torch

from layersmith.anatomy import find_sites
from layersmith.anatomy.edit import Edit
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.measuring.shape import parse_shape
from layersmith.refitting.heal.distillation import Healing, HealSettings, heal
from layersmith.refitting.prove import finish
from layersmith.refitting.prove.finish import _heal, _heal_best_uniform
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import tiny_llama, token_batches

BATCHES, HELDOUT = token_batches(8, seed=5), token_batches(3, seed=6)


@pytest.fixture
def teacher():
    return tiny_llama(layers=2)


def test_a_mix_without_a_place_for_it_stays_as_it_is_and_the_run_says_so(teacher):
    """Whatever was chosen, or is the best baseline: with all feed-forwards in int8 nothing can stand around one."""
    replacement = []
    for path, module in teacher.named_modules():
        if ".mlp." in path and isinstance(module, torch.nn.Linear):
            part = Int8Dynamic.from_weight(module.weight)
            replacement.append((Edit(path, part.spec(), {}), part))
    notes = []
    ctx = SimpleNamespace(
        model=teacher,
        anatomy=find_sites(teacher),
        batches=SimpleNamespace(heal=BATCHES, search=HELDOUT),
        settings=SimpleNamespace(heal_adapter="lora_experts", heal_lr=1e-3, seed=0),
        workspace=None,
        bar=SimpleNamespace(note=notes.append, tell=lambda text, done, total: None),
    )
    changed, healing, grown = _heal(ctx, SimpleNamespace(replacement=lambda ids: replacement), ["all"], "heal")
    assert healing is None
    assert grown == []
    assert "lora_experts stands around" in notes[0]
    options = HealSettings(8, adapter="lora_experts")
    with pytest.raises(UserError, match="leave --heal-adapter out"):
        heal(changed.requires_grad_(True), teacher, ctx.anatomy, BATCHES, HELDOUT, options)


def test_a_baseline_pays_for_an_adapter_that_stays_in_it(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(finish, "heal", lambda *given, **named: Healing(1, 1, []))  # which was not rolled back
    glu = GLU(32, 64).eval()
    trained = teacher.model.layers[0].mlp.state_dict()
    torch.manual_seed(1)
    glu.load_state_dict({name.replace("_proj", ""): value for name, value in trained.items()})
    with torch.no_grad():
        glu.down.weight.add_(0.1 * torch.randn(32, 64))
    ctx = SimpleNamespace(
        model=teacher,
        anatomy=find_sites(teacher),
        shape=parse_shape("prefill=1x8"),
        batches=SimpleNamespace(heal=BATCHES * 5, search=HELDOUT, report=HELDOUT),
        settings=SimpleNamespace(heal_adapter="lora_experts:2", heal_lr=2e-2, seed=0),
        workspace=Workspace(tmp_path / "run", {}),
        bar=SimpleNamespace(note=print, tell=lambda text, done, total: None),
    )
    found = SimpleNamespace(
        replacement=lambda ids: [(Edit("model.layers.0.mlp", glu.spec(), {}), glu)],
        costs=SimpleNamespace(total=SimpleNamespace(of=lambda name: 1.0)),
    )
    measured = {"divergence": 9.0, "agreement": 0.0, "measured_on": 1.0, "latency_ratio": 0.5, "params": 7}
    baseline = {"meets_budget": True, "candidates": ["all"], "measured": measured, "healed": None}
    _heal_best_uniform(ctx, found, {"uniform": [baseline]})
    whole = sum(p.numel() for p in teacher.parameters())
    assert baseline["healed"]["params"] > whole
    assert baseline["healed"]["divergence"] != 9.0
    assert baseline["healed"]["latency_ratio"] != 0.5
    ctx.workspace.close()
