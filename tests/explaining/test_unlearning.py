"""Facts that are taught and taken back: the updates, each by itself, and the survey with its yardstick."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace

import pytest
import torch

from layersmith.anatomy import find_sites
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError
from layersmith.explaining.forgetting import tracing
from layersmith.explaining.forgetting.adapt import distance, repulsion
from layersmith.explaining.forgetting.facts import draw
from layersmith.explaining.forgetting.isolation import Isolation, knowledge_isolation, weight
from layersmith.explaining.forgetting.newton import codec_newton
from layersmith.explaining.forgetting.scene import Scene, train
from layersmith.explaining.passages import text_loss
from layersmith.explaining.pipeline import explain
from layersmith.explaining.unlearning import copied
from layersmith.ffn.swap_test import SwapTest
from tests.explaining.conftest import tiny

SETTINGS = {"facts": 16, "forget": 4, "answers": 4, "steps": 60, "rate": 0.01, "batch": 8}


def scene_of(model: torch.nn.Module) -> Scene:
    ids = torch.arange(40).view(2, 20) * 7 % 4096
    return Scene(
        facts=draw(torch.arange(100, 160), 16, 4, 4, seed=0),
        text=[{"input_ids": ids}],
        sites=list(find_sites(model)),
        kept=1.0,
        steps=6,
        rate=0.01,
        batch=8,
        seed=0,
        tell=lambda text, done, all_: None,
    )


def test_facts_are_distinct_and_no_answer_is_commoner_than_another() -> None:
    facts = draw(torch.arange(50, 80), 24, 8, 4, seed=3)
    assert len({tuple(row) for row in facts.prompts.tolist()}) == 24
    assert facts.prompts[:, -1].unique().numel() == 1
    assert not set(facts.prompts.flatten().tolist()) & set(facts.choices.tolist())
    assert facts.answers[facts.forget].bincount().tolist() == [2] * 4
    assert facts.answers[facts.retain].bincount().tolist() == [4] * 4
    assert not torch.equal(facts.prompts, draw(torch.arange(50, 80), 24, 8, 4, seed=4).prompts)
    with pytest.raises(UserError, match="too few to make 24 facts"):
        draw(torch.arange(7), 24, 8, 4, seed=0)


def test_a_row_of_text_counts_its_real_tokens_alone(llama) -> None:
    ids = torch.arange(12).view(1, 12) + 5
    longer = torch.cat([ids, torch.full((1, 4), 1)], 1)
    mask = (torch.arange(16) < 12).long()[None]
    with evaluating(llama):
        alone = text_loss(llama, [{"input_ids": ids}])
        padded = text_loss(llama, [{"input_ids": longer, "attention_mask": mask}])
        logits = llama(input_ids=ids).logits[0].double().log_softmax(-1)
    wanted = -sum(float(logits[t, ids[0, t + 1]]) for t in range(11)) / 11
    assert float(alone) == pytest.approx(wanted, rel=1e-5)
    assert float(padded) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("rise", "alpha"),
    [(-1.0, 1.2), (0.0, 1.2), (0.1, 1.2), (0.5, 0.3 * 6**0.5 + 0.8), (0.7, 0.3 * 6**0.7 + 0.8), (2.0, 2.3), (1e9, 2.3)],
)
def test_what_stays_weighs_more_the_more_of_it_is_lost(rise, alpha) -> None:
    assert weight(rise) == pytest.approx(alpha)


def test_the_joint_loss_is_that_of_its_formula(llama) -> None:
    scene = scene_of(llama)
    with evaluating(llama):
        loss = Isolation(llama, scene)
        assert loss.first == 2  # of 12 facts that stay, 8 a step
        other, kept = scene.generator(), []
        for step in range(4):
            gone = float(scene.facts.loss(llama, scene.drawn(other, scene.facts.forget)))
            kept.append(float(scene.kept_loss(llama, other)))
            alpha = 1.2 if step < 2 else weight(kept[-1] - (kept[0] + kept[1]) / 2)
            assert float(loss()) == pytest.approx(alpha * kept[-1] - gone, rel=1e-5)


def test_isolation_moves_the_chosen_feed_forwards_and_nothing_else_to_the_bit(llama) -> None:
    model, scene = copied(llama), scene_of(llama)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    chosen = [site for site in scene.sites if site.kind == "ffn"][:1]
    with evaluating(model):
        train(replace(scene, steps=40), list(model.parameters()), lambda: scene.facts.loss(model, slice(0, 16)), "")
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        assert knowledge_isolation(model, replace(scene, steps=40), chosen) > 0
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    inside = {name for name in before if name.startswith(f"{chosen[0].modules[0]}.")}
    assert moved == inside
    assert inside


def test_the_last_feed_forward_cannot_bring_back_what_only_the_last_token_reads(llama) -> None:
    """No attention follows it, so what it says at the subject reaches no answer."""
    facts, sites = scene_of(llama).facts, [site for site in find_sites(llama) if site.kind == "ffn"]
    with evaluating(llama):
        found = tracing.effects(llama, sites, facts, facts.forget, 0, lambda *args: None)
        right = facts.log_odds(llama, facts.forget)[range(4), facts.answers[:4]].exp().mean()
    assert found["clean"] == pytest.approx(float(right), rel=1e-6)
    assert abs(found["noise"] - found["clean"]) > 1e-4
    assert abs(found["layers.0.ffn"]) > 1e-5
    assert abs(found["layers.1.ffn"]) < 1e-7
    assert not any(module._forward_hooks for module in llama.modules())


def test_without_noise_there_is_nothing_to_bring_back(llama, monkeypatch) -> None:
    monkeypatch.setattr(tracing, "NOISE", 0.0)
    facts, sites = scene_of(llama).facts, [site for site in find_sites(llama) if site.kind == "ffn"]
    with evaluating(llama):
        found = tracing.effects(llama, sites, facts, facts.retain, 0, lambda *args: None)
    assert found["noise"] == pytest.approx(found["clean"], abs=1e-7)
    assert all(abs(found[site.name]) < 1e-7 for site in sites)


@pytest.mark.parametrize(
    ("effects", "layers"),
    [([0.5, 0.3, 0.2], 2), ([0.9, 0.1, -5.0], 1), ([0.0, 0.0, 1.0], 3), ([-1.0, -1.0], 2), ([1.0], 1)],
)
def test_the_first_layers_with_four_fifths_of_the_effects_are_chosen(effects, layers) -> None:
    assert tracing.prefix(effects, 0.8) == layers


def test_the_repulsion_is_largest_at_the_adapted_weights_and_points_away_from_them() -> None:
    adapted = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    here = [torch.nn.Parameter(adapted[0] + torch.tensor([1.0, 0.0])), torch.nn.Parameter(adapted[1] + 2.0)]
    assert distance(here, adapted).item() == pytest.approx(5.0)
    loss = repulsion(here, adapted, width=5.0)
    assert loss.item() == pytest.approx(100 / math.e, rel=1e-6)
    slopes = torch.autograd.grad(loss, here)
    assert slopes[0].tolist() == pytest.approx([-2 / 5 * 100 / math.e, 0.0], rel=1e-5)  # downhill is further away
    assert float(slopes[1]) == pytest.approx(-4 / 5 * 100 / math.e, rel=1e-5)


class Told(Scene):
    """A scene whose looks find what they are told to."""

    def shortfall(self, model: torch.nn.Module) -> tuple[float, float]:
        return LOOKS.pop(0)


LOOKS: list[tuple[float, float]] = []


@pytest.mark.parametrize(
    ("looks", "kept", "taken"),
    [
        ([(0.75, 0.0), (0.0, 0.5), (0.0, 0.25), (0.25, 0.0)], 10, 12),  # forgetting comes first
        ([(0.75, 0.0), (0.0, 0.0)], 5, 5),  # nothing is left to do
        ([(0.75, 0.0), (0.75, 0.5), (0.75, 0.25), (0.75, 0.5)], 0, 12),
    ],
)
def test_the_best_state_of_an_update_is_kept(looks, kept, taken) -> None:
    parameter, steps = torch.nn.Parameter(torch.zeros(())), []
    scene = scene_of(tiny("llama"))
    told = Told(**{**vars(scene), "steps": 12, "tell": lambda text, done, every: steps.append(done)})
    LOOKS[:] = looks
    assert train(told, [parameter], lambda: -parameter, "", torch.nn.Module()) == kept
    assert len(steps) == taken
    assert parameter.item() == pytest.approx(0.01 * kept, rel=1e-4)  # of a constant slope AdamW takes the whole rate
    assert not LOOKS


def test_l_codec_moves_rows_of_linear_maps_alone(llama) -> None:
    model, scene = copied(llama), scene_of(llama)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with evaluating(model):
        steps = codec_newton(model, scene)
    moved = {name: (p != before[name]) for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert steps == bool(moved)
    rows = sum(int(change.any(-1).sum()) for change in moved.values())
    assert rows <= 32
    assert all("proj" in name for name in moved)


def test_l_codec_passes_by_a_map_that_is_not_called(llama) -> None:
    for layer in llama.model.layers:
        layer.mlp = SwapTest(32, 16).eval()  # which reads the weight of its first map
    model, scene = copied(llama), scene_of(llama)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if ".up." in name}
    with evaluating(model):
        codec_newton(model, scene)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())


def test_the_survey_finds_that_retraining_forgets_and_leaves_the_model_as_it_was(llama, tokenizer, tmp_path) -> None:
    before = copy.deepcopy(llama.state_dict())
    asked = {"tool": "unlearning", "settings": SETTINGS, "tokens": 512, "out": tmp_path / "out", "progress": False}
    found = explain(llama, tokenizer=tokenizer, **asked)["survey"]
    rows = found["rows"]
    assert found["facts"] == {"all": 16, "forget": 4, "chance": 0.25}
    assert rows["taught"]["forget"] == rows["taught"]["retain"] == 1.0
    assert rows["retrained"]["retain"] == 1.0
    assert rows["retrained"]["forgotten"]
    assert rows["retrained"]["kept"]
    assert rows["retrained"]["distance"] == 0.0
    assert not rows["taught"]["forgotten"]
    assert not rows["untaught"]["kept"]
    assert rows["taught"]["distance"] > rows["untaught"]["distance"]
    assert set(rows) - {"untaught", "taught", "retrained"} == {
        "fine-tuned",
        "gradient ascent",
        "knowledge isolation",
        "adapt then unlearn",
        "L-CODEC",
    }
    assert rows["gradient ascent"]["forget"] < 1.0
    assert rows["knowledge isolation"]["forget"] < 1.0
    assert rows["fine-tuned"]["retain"] == 1.0
    assert all(torch.equal(value, before[key]) for key, value in llama.state_dict().items())
    assert not list((tmp_path / "out" / "workspace" / "unlearning").glob("*.safetensors"))
    assert "What was forgotten" in (tmp_path / "out" / "report.html").read_text()
    again = explain(llama, tokenizer=tokenizer, **asked)["survey"]
    assert json.dumps(again) == json.dumps(found)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"forget": 0}, "The forget set is empty"),
        ({"forget": 96}, "no fact would stay"),
        ({"answers": 1}, "answers must be at least 2"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"rate": 0.0}, "between 0 and 1"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_any_work(settings, message, llama, tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match=message):
        explain(llama, tool="unlearning", tokenizer=tokenizer, out=tmp_path / "o", settings=settings, progress=False)
    assert not (tmp_path / "o").exists()


def test_models_that_predict_no_next_token_are_refused(tokenizer, tmp_path) -> None:
    with pytest.raises(UserError, match="BertForMaskedLM with the sites asked for is not that"):
        explain(tiny("bert"), tool="unlearning", tokenizer=tokenizer, tokens=512, out=tmp_path / "o", progress=False)
