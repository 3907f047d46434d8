"""Healing: it helps, stops, rolls back, resumes to the same end, and says when it diverges."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch

from layersmith.anatomy import find_sites
from layersmith.errors import UserError
from layersmith.measuring.divergence import divergence
from layersmith.refitting.heal import loss as heal_loss
from layersmith.refitting.heal.distillation import Course, Healing, HealSettings, heal
from layersmith.refitting.heal.loss import add_gradients, hidden_states, rows_at_once
from layersmith.refitting.heal.state import Best
from layersmith.refitting.methods import get
from layersmith.refitting.prove import finish as finishing
from layersmith.refitting.search.choice import student
from layersmith.runs.workspace import Workspace
from tests.refitting.conftest import VOCABULARY, tiny_llama, token_batches

BATCHES = token_batches(8, seed=5)
HELDOUT = token_batches(3, seed=6)


@pytest.fixture
def teacher():
    return tiny_llama(layers=2)


@pytest.fixture
def hurt(teacher):
    """The teacher with noise on one feed-forward."""
    changed = copy.deepcopy(teacher)
    torch.manual_seed(1)
    changed.model.layers[0].mlp.down_proj.weight += 0.1 * torch.randn(32, 64)
    return changed.requires_grad_(True)


def run(hurt, teacher, steps=24, workspace=None, **settings):
    options = HealSettings(steps, **{"lr": 2e-3, "check_every": 4, "patience": 99, **settings})
    return heal(hurt, teacher, find_sites(teacher), BATCHES, HELDOUT, options, workspace=workspace)


def test_it_heals(hurt, teacher):
    before = divergence(teacher, hurt, HELDOUT).value
    healing = run(hurt, teacher, steps=60)
    after = divergence(teacher, hurt, HELDOUT).value
    assert after < 0.7 * before
    assert not healing.rolled_back
    assert after == pytest.approx(min(point["heldout_divergence"] for point in healing.curve))
    assert healing.tokens == 60 * 2 * 24


def test_it_rolls_back_when_it_hurts(hurt, teacher):
    before = {k: v.clone() for k, v in hurt.state_dict().items()}
    healing = run(hurt, teacher, steps=8, lr=3.0)
    assert healing.rolled_back
    assert all(torch.equal(v, before[k]) for k, v in hurt.state_dict().items())


def test_it_stops_early(hurt, teacher):
    healing = run(hurt, teacher, steps=400, lr=1.0, patience=2, lost=math.inf)
    assert healing.stopped_early
    assert healing.steps == 8


def test_what_has_not_helped_at_all_is_given_up_sooner_than_what_has(hurt, teacher):
    exact = copy.deepcopy(teacher).requires_grad_(True)
    healing = run(exact, teacher, steps=400, lr=1e-3, patience=50, hope=3, lost=math.inf)
    assert healing.rolled_back
    assert healing.steps == 3 * 4
    assert run(hurt, teacher, steps=40, lr=2e-3, patience=50, hope=1).steps == 40


def test_what_one_check_finds_far_worse_than_no_healing_is_given_up_at_once(hurt, teacher):
    exact = copy.deepcopy(teacher).requires_grad_(True)
    healing = run(exact, teacher, steps=400, lr=1e-3, patience=50, hope=3)
    assert (healing.steps, healing.rolled_back) == (4, True)
    assert run(hurt, teacher, steps=40, lr=2e-3, patience=50, hope=3).steps == 40, "what helps is never far worse"
    point = {"step": 0, "heldout_divergence": 0.2}
    for later, over in [(1.9, False), (2.1, True)]:
        course = Course(Healing(4, 0, [point, {"step": 4, "heldout_divergence": later}]), 0.2, Best(None, ""))
        course.bad_checks = 1
        assert course.is_over(HealSettings(99)) == over, later
    curve = [point, {"step": 8, "heldout_divergence": 5.0}]
    better = Course(Healing(8, 0, curve), 0.1, Best(None, ""), best_step=4, bad_checks=1)
    assert not better.is_over(HealSettings(99)), "what has helped before has its patience"


def test_the_best_state_is_kept_on_the_disk_and_a_shared_tensor_once(teacher, tmp_path):
    workspace = Workspace(tmp_path / "run", {})
    best, state = Best(workspace, "heal/x"), {k: v.clone() for k, v in teacher.state_dict().items()}
    best.put(3, teacher)
    assert not best._held
    stored = workspace.load_tensors("heal/x-best-3")
    assert sum(t.numel() for t in stored.values()) == sum(t.numel() for t in teacher.parameters())
    teacher.model.layers[0].mlp.down_proj.weight += 1
    teacher.lm_head.weight += 1
    best.give(3, teacher)
    assert all(torch.equal(v, state[k]) for k, v in teacher.state_dict().items())
    assert teacher.lm_head.weight is teacher.model.embed_tokens.weight
    best.forget(3)
    assert not best.has(3)
    with pytest.raises(UserError, match="damaged while in use"):
        best.give(3, teacher)
    workspace.close()


def test_killed_it_goes_on_to_the_same_end(hurt, teacher, tmp_path):
    other = copy.deepcopy(hurt)
    whole = run(hurt, teacher)
    workspace = Workspace(tmp_path / "run", {})

    def die(text, done, total):
        if done == 14:
            raise KeyboardInterrupt

    start = copy.deepcopy(other)
    options = HealSettings(24, lr=2e-3, check_every=4, patience=99)
    with pytest.raises(KeyboardInterrupt):
        heal(other, teacher, find_sites(teacher), BATCHES, HELDOUT, options, workspace=workspace, tell=die)
    resumed = run(start, teacher, workspace=workspace)
    assert resumed.curve == whole.curve
    assert all(torch.equal(v, start.state_dict()[k]) for k, v in hurt.state_dict().items())
    workspace.close()


def test_divergence_is_named_and_undone(hurt, teacher):
    before = {k: v.clone() for k, v in hurt.state_dict().items()}
    with pytest.raises(UserError, match=r"diverged at step.*--heal-lr"):
        run(hurt, teacher, lr=1e30)
    assert all(torch.equal(v, before[k]) for k, v in hurt.state_dict().items())


def test_a_student_with_dropped_blocks_heals_too(teacher, view, llama):
    at = view("layers.2")
    changed = student(llama, get("drop").build(at, {})).requires_grad_(True)
    before = divergence(llama, changed, HELDOUT).value
    run(changed, llama, steps=16)
    assert divergence(llama, changed, HELDOUT).value < before


@pytest.mark.parametrize("padded", [False, True])
def test_pieces_of_a_batch_add_up_to_its_gradient(hurt, teacher, padded):
    batch = dict(token_batches(1, rows=5, seed=7)[0])
    if padded:
        batch["attention_mask"] = (torch.arange(24) < torch.tensor([[24], [3], [11], [1], [24]])).long()
    found = {}
    with hidden_states(teacher, find_sites(teacher)) as theirs, hidden_states(hurt, find_sites(teacher)) as ours:
        for rows in (5, 2, 1):
            hurt.zero_grad()
            loss = add_gradients(hurt, teacher, batch, rows, ours, theirs)
            found[rows] = [loss, *(p.grad.clone() for p in hurt.parameters())]
    for rows in (2, 1):
        assert found[rows][0] == pytest.approx(found[5][0], rel=1e-5)
        for piece, whole in zip(found[rows][1:], found[5][1:], strict=True):
            torch.testing.assert_close(piece, whole, rtol=1e-4, atol=1e-7)


def test_pieces_are_as_large_as_the_vocabulary_allows(teacher, monkeypatch):
    monkeypatch.setattr(heal_loss, "PIECE", 2 * 24 * VOCABULARY)
    assert rows_at_once(teacher, BATCHES[0]) == 2
    monkeypatch.setattr(heal_loss, "PIECE", 1)
    assert rows_at_once(teacher, BATCHES[0]) == 1


def test_an_exact_mix_is_not_healed_and_any_other_is(monkeypatch, tmp_path):
    healed = []
    monkeypatch.setattr(finishing, "student", lambda model, replacement: "as it is")
    monkeypatch.setattr(
        finishing, "_heal", lambda ctx, found, chosen, name: healed.append(chosen) or ("healed", None, [])
    )
    settings, batches = SimpleNamespace(heal_lr=1e-4, seed=0, heal_adapter=None), SimpleNamespace(heal=[{}])
    workspace = Workspace(tmp_path / "run", {})
    ctx = SimpleNamespace(
        model=None, workspace=workspace, settings=settings, batches=batches, bar=SimpleNamespace(note=lambda text: None)
    )
    for moved, expected in [(-1e-9, "as it is"), (1e-6, "as it is"), (2e-6, "healed")]:
        found = SimpleNamespace(selection=SimpleNamespace(joint_divergence=moved), replacement=lambda ids: [])
        assert finishing._healed(ctx, found, ["a"]) == (expected, None, [])
    assert healed == [["a"]]
    workspace.close()
