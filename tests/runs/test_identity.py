"""Every ingredient of a run is part of its identity, is named when it differs, and nothing else is."""

import copy
import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

import layersmith.pocket
from layersmith import checkpoint
from layersmith.runs import identity as identities
from layersmith.runs.identity import differences, digest_of, identity_of
from tests.refitting.conftest import tiny_batches, tiny_llama


@pytest.fixture
def parts():
    """Model, tokenizer and batches, new each time."""
    return tiny_llama(layers=2), AutoTokenizer.from_pretrained(layersmith.pocket.path()), vars(tiny_batches())


def identity(parts):
    return json.loads(json.dumps(identity_of(*parts)))


def add_token(parts):
    parts[1].add_tokens(["<new>"])


def change_template(parts):
    parts[1].chat_template = "{{ messages }}"


def change_weight(parts):
    parts[0].model.layers[1].mlp.down_proj.weight[3, 5] += 1e-6


def change_config(name, value):
    return lambda parts: setattr(parts[0].config, name, value)


def change_generation(parts):
    parts[0].generation_config.max_new_tokens = 3


def change_token(parts):
    parts[2]["search"][1]["input_ids"][0, 3] += 1


def change_mask(parts):
    batch = parts[2]["fit"][0]
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])


def fewer_batches(parts):
    parts[2]["report"].pop()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_weight, ["the weights of the model"]),
        (change_config("rms_norm_eps", 1e-5), ["the model's config: rms_norm_eps (was 1e-06, is 1e-05)"]),
        (change_config("hidden_act", "gelu"), ['the model\'s config: hidden_act (was "silu", is "gelu")']),
        (change_generation, ["the model's generation config: max_new_tokens (was null, is 3)"]),
        (add_token, ["the tokenizer"]),
        (change_template, ["the tokenizer"]),
        (change_token, ["the text that is read"]),
        (change_mask, ["the text that is read"]),
        (fewer_batches, ["the text that is read"]),
    ],
)
def test_each_ingredient_is_named_when_it_differs(parts, change, named):
    before = identity(parts)
    change(parts)
    assert differences(before, identity(parts)) == named


@pytest.mark.parametrize("package", ["layersmith", "torch", "transformers"])
def test_versions_are_ingredients(parts, monkeypatch, package):
    before, real = identity(parts), identities.version
    monkeypatch.setattr(identities, "version", lambda name: "99.0" if name == package else real(name))
    if package == "layersmith":
        monkeypatch.setattr(layersmith, "__version__", "99.0")
    named = [f'the version of {package} (was "{before["versions"][package]}", is "99.0")']
    assert differences(before, identity(parts)) == named


def test_use_changes_nothing(parts):
    model, tokenizer, _ = parts
    before = identity(parts)
    tokens = tokenizer(["one", "and two more"], padding=True, truncation=True, max_length=5, return_tensors="pt")
    model(tokens["input_ids"])
    model.generate(tokens["input_ids"], max_new_tokens=2, pad_token_id=0)
    copy.deepcopy(model)
    assert differences(before, identity(parts)) == []


def test_the_place_is_no_ingredient(parts, tmp_path):
    parts[0].save_pretrained(tmp_path / "a")
    parts[1].save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    a, b = (identity((*checkpoint.load(tmp_path / name), parts[2])) for name in "ab")
    assert differences(a, b) == []


def test_what_is_not_a_number_equals_itself():
    """A config may hold NaN and infinity."""
    assert differences({"config": {"x": float("nan")}}, {"config": {"x": float("nan")}}) == []


def test_a_model_without_config_and_tokenizer_has_an_identity():
    first, second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    named = differences(identity_of(first, None, {}), identity_of(second, None, {}))
    assert named == ["the weights of the model"]


def test_names_of_facts():
    assert digest_of(["a", "b"], {"x": 1, "y": 2}) == digest_of(["a", "b"], {"y": 2, "x": 1})
    others = [digest_of(["a"], ["b"]), digest_of(["b", "a"]), digest_of("ab"), digest_of(["a", "b"])]
    assert len(set(others)) == 4
