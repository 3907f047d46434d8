"""Training: planted atoms are found, dead features come back, rows keep norm 1, a killed run ends in the same bits."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from layersmith.errors import UserError
from layersmith.explaining.dictionaries.pages import activity
from layersmith.explaining.dictionaries.recipe import ACTIVATIONS, Recipe
from layersmith.explaining.dictionaries.train import Training, scale_of, schedule, shuffled, train
from layersmith.ffn.shared import sparse_codes
from layersmith.runs.workspace import Workspace
from tests.explaining.planted import ACTIVE, D, planted, recovered

SMALL = Recipe(kind="sae", expansion=2, k=ACTIVE, steps=12, batch=64, lr=3e-3, dead_after=200)


@pytest.fixture(scope="module")
def data():
    return planted(20_000)


def trained(rows, recipe):
    return train(shuffled(rows, rows, recipe.batch, recipe.seed), recipe)


def test_planted_atoms_are_recovered(data):
    rows, atoms = data
    recipe = dataclasses.replace(SMALL, steps=1500, batch=256, lr=1e-2, dead_after=2000)
    dictionary = trained(rows, recipe)
    untrained = Training(shuffled(rows, rows, 256, 0), recipe).dictionary
    assert recovered(dictionary, atoms) >= 0.95
    assert recovered(untrained, atoms) < 0.7, "else there is nothing to recover"
    assert activity(dictionary, rows[:2000], rows[:2000]).unexplained < 0.1


@pytest.mark.parametrize("activation", ["jumprelu", "gated", "relu"])
def test_a_penalty_is_steered_to_k_active_features(data, activation):
    rows, _ = data
    recipe = dataclasses.replace(SMALL, activation=activation, steps=1500, batch=256, dead_after=2000)
    seen = activity(trained(rows, recipe), rows[:2000], rows[:2000])
    assert ACTIVE / 1.6 < seen.active < ACTIVE * 1.6
    assert seen.unexplained < 0.7


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["sae", "transcoder", "skip_transcoder"])
def test_every_kind_learns_and_keeps_decoder_rows_at_norm_1(data, kind, activation):
    rows, _ = data
    targets = rows @ torch.randn(D, D, generator=torch.Generator().manual_seed(3)) + 1.0
    outputs = rows if kind == "sae" else torch.relu(targets)
    recipe = dataclasses.replace(SMALL, kind=kind, activation=activation, k=8, steps=60)
    stream = shuffled(rows, outputs, recipe.batch, 0)
    training = Training(stream, recipe)
    before = activity(training.dictionary.eval(), rows[:1000], outputs[:1000]).unexplained
    training.dictionary.train()
    for _ in range(60):
        training.step()
    norms = training.dictionary.decoder.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    after = activity(training.dictionary.eval(), rows[:1000], outputs[:1000]).unexplained
    assert math.isfinite(after)
    assert after < before


def test_dead_features_come_back(data):
    """Encoder biases far below zero: nothing of the error reaches them, only the revival does."""
    rows, _ = data

    def dead_at_the_end(dead_after):
        recipe = dataclasses.replace(SMALL, steps=300, batch=128, dead_after=dead_after)
        training = Training(shuffled(rows, rows, recipe.batch, 0), recipe)
        with torch.no_grad():
            training.dictionary.encoder.bias[:32] = -8.0
        for _ in range(300):
            training.step()
        return int((activity(training.dictionary.eval(), rows[:3000], rows[:3000]).density[:32] == 0).sum())

    assert dead_at_the_end(10**9) == 32
    assert dead_at_the_end(500) < 8


class Died(BaseException):
    pass


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_killed_run_ends_in_the_same_bits(data, tmp_path, activation):
    rows, _ = data
    recipe = dataclasses.replace(SMALL, activation=activation)
    whole = trained(rows, recipe)
    stream = shuffled(rows, rows, recipe.batch, recipe.seed)
    calls = []

    def dying(step):
        calls.append(step)
        if len(calls) > 15:
            raise Died
        return stream(step)

    workspace = Workspace(tmp_path / "run", {})
    with pytest.raises(Died):
        train(dying, recipe, workspace, keep_every=5)
    asked = []
    again = train(lambda step: asked.append(step) or stream(step), recipe, workspace, keep_every=5)
    assert min(asked[4:]) >= 5, "it went on from what was kept"
    assert set(again.state_dict()) == set(whole.state_dict())
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    told = []
    train(stream, recipe, workspace, tell=told.append)
    assert not told, "a finished one is not trained again"


def test_another_recipe_in_the_same_workspace_starts_anew(data, tmp_path):
    rows, _ = data
    workspace = Workspace(tmp_path / "run", {})
    stream = shuffled(rows, rows, 64, 0)
    first = train(stream, SMALL, workspace)
    other = train(stream, dataclasses.replace(SMALL, seed=1), workspace)
    assert not torch.equal(first.decoder, other.decoder)


def test_one_seed_one_dictionary_and_no_draw_from_the_callers_numbers(data):
    rows, _ = data
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    first = trained(rows, SMALL)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(6)
    with torch.no_grad():  # whatever the caller is doing
        assert torch.equal(trained(rows, SMALL).decoder, first.decoder)


def test_the_stream_gives_each_row_once_a_pass_and_the_same_for_the_same_step():
    rows = torch.arange(10.0)[:, None]
    stream = shuffled(rows, -rows, 3, 0)
    first = [stream(step)[0] for step in range(3)]
    assert len({int(v) for part in first for v in part[:, 0]}) == 9
    stream(7)
    assert torch.equal(stream(1)[0], first[1])
    assert torch.equal(stream(1)[1], -first[1])
    assert not torch.equal(torch.cat([stream(step)[0] for step in range(3, 6)]), torch.cat(first))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 300.0])
def test_scales_bring_norms_near_the_root_of_the_width(data, factor):
    rows = factor * data[0]
    scale = scale_of(rows)
    assert math.log2(scale) == round(math.log2(scale))
    assert 0.7 < float((rows * scale).norm(dim=-1).mean()) / D**0.5 < 1.42
    assert scale_of(torch.zeros(4, D)) == 1.0


def test_what_is_learned_does_not_depend_on_the_scale_of_the_rows(data):
    rows, _ = data
    small, large = trained(rows, SMALL), trained(1024 * rows, SMALL)
    torch.testing.assert_close(large(1024 * rows[:50]), 1024 * small(rows[:50]))


def test_the_learning_rate_goes_up_and_comes_down():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[:5] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert rates[5:80] == [1.0] * 75
    assert rates[-1] == pytest.approx(1 / 20)
    assert [schedule(0, 1)] == [1.0]


def test_both_lists_of_activations_are_one():
    """The recipe's is read before torch is imported."""
    assert ACTIVATIONS == sparse_codes.ACTIVATIONS


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "transcodr"}, "'transcoder'"),
        ({"activation": "top_k"}, "'topk'"),
        ({"stepz": 4}, "'steps'"),
        ({"k": 0}, "k, not 0"),
        ({"steps": 1.5}, "steps, not 1.5"),
        ({"lr": -1.0}, "lr, not -1.0"),
        ({"seed": -1}, "seed, not -1"),
    ],
)
def test_settings_that_do_not_exist_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        Recipe.of(settings)


def test_too_little_text_is_refused_with_what_would_fit():
    recipe = Recipe(expansion=8, k=4)
    recipe.check_rows(512, 32)
    with pytest.raises(UserError, match=r"256 features.*100 tokens; at least 512.*expansion=1 fits"):
        recipe.check_rows(100, 32)
    with pytest.raises(UserError, match=r"Give more text\."):
        recipe.check_rows(10, 32)
    with pytest.raises(UserError, match="makes only 256"):
        Recipe(expansion=8, k=300).check_rows(10**6, 32)


def test_rows_that_are_not_finite_are_refused(data):
    rows = data[0][:512].clone()
    rows[3, 3] = float("inf")
    with pytest.raises(UserError, match="not finite"):
        trained(rows, SMALL)
