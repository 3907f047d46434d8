"""What a user names: right names pass untouched, and only real slips are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from layersmith import names, pocket
from layersmith.errors import MissingExtra, UserError


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(names.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(names.constants, "HF_HUB_OFFLINE", False)
    return tmp_path


def model_at(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")


def test_what_can_be_loaded_is_told_apart(place: Path) -> None:
    model_at(place / "models/smol")
    (place / "x.gguf").touch()
    (place / "alone").mkdir()
    (place / "alone/y.gguf").touch()
    assert names.model_source("pocket") == (str(pocket.path()), None)
    assert names.model_source("models/smol/") == ("models/smol", None)
    assert names.model_source("x.gguf") == (".", "x.gguf")
    assert names.model_source("alone") == ("alone", "y.gguf")


@pytest.mark.parametrize(
    "name", ["gpt2", "owner/model", "meta-llama/Llama-3.2-1B", "models/smol-2", "google-bert/bert-base-uncased"]
)
def test_a_hub_id_beside_folders_of_other_models_is_left_to_the_hub(place: Path, name: str) -> None:
    for folder in ("meta-llama/Llama-3.2-3B", "models/smol", "gpt", "google-bert/bert-base-cased"):
        model_at(place / folder)
    assert names.model_source(name) == (name, None)


def test_a_slip_is_refused_unless_the_hub_model_of_that_name_was_fetched(place: Path) -> None:
    model_at(place / "models/smol")
    with pytest.raises(UserError, match=r"Did you mean 'models/smol'.*hf download models/smoll"):
        names.model_source("models/smoll")
    (place / "cache/models--models--smoll").mkdir(parents=True)
    assert names.model_source("models/smoll") == ("models/smoll", None)


def test_nothing_is_asked_of_a_forbidden_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE forbids"):
        names.model_source("owner/model")


@pytest.mark.parametrize(
    ("wrong", "known", "slip"),
    [
        ("smlo", "smol", True),
        ("smo", "smol", True),
        ("smoll", "smol", True),
        ("smul", "smol", True),
        ("smol", "smol", True),
        ("small", "smol", False),
        ("smol2", "smol", False),
        ("smol-1b", "smol-3b", False),
        ("loms", "smol", False),
    ],
)
def test_one_slip(wrong: str, known: str, slip: bool) -> None:
    assert names._one_slip(wrong, [known]) == ([known] if slip else [])


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("pocket", "pocket"),
        ("owner/model", "owner/model"),
        ("models/smol", "smol"),
        ("models/smol/", "smol"),
        ("out/demo/model", "demo/model"),
    ],
)
def test_a_model_is_shown_by_its_folders_name(place: Path, name: str, shown: str) -> None:
    for folder in ("models/smol", "out/demo/model"):
        model_at(place / folder)
    assert names.shown_name(name) == shown
    if shown != name:
        assert names.shown_name(str(place / name)) == shown


@pytest.mark.parametrize("name", ["stdlib", "hub:owner/name", "hub:name:config", "hub:owner/name::text", "book.txt"])
def test_texts_that_may_be_there(place: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (place / "book.txt").touch()
    monkeypatch.setattr(names, "find_spec", lambda package: object())
    names.check_data(name)


def test_a_hub_data_set_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "find_spec", lambda package: None)
    monkeypatch.delitem(sys.modules, "datasets", raising=False)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[hub\]'"):
        names.check_data("hub:owner/name")


@pytest.mark.parametrize("name", ["cpu", "cuda", "cuda:1", "mps"])
def test_devices(name: str) -> None:
    names.check_device(name)


def test_a_folder_to_write_to_is_tried_and_left_as_it_was(place: Path) -> None:
    (place / "run/workspace").mkdir(parents=True)
    for out in ("run", "new", "new/deep/down"):
        names.check_out(Path(out))
    assert sorted(map(str, place.rglob("*"))) == [str(place / "run"), str(place / "run/workspace")]


def test_names_that_sites_have_pass() -> None:
    names.check_sites(None)
    names.check_sites(["layers.0.ffn", "layers.3", "*", "layers.*.attn*", "layers.[01].ffn", "head", "final_norm"])
    names.check_sites(
        ["decoder.layers.2.cross_attn_norm", "encoder.final_norm", "layers.0.attn2_norm", "*.attn_post_norm"]
    )


@pytest.mark.parametrize("name", ["layers.0.fnn", "layers", "layers.*.mlp", "decoder.layers.1.attention", "ffn_norms"])
def test_names_that_no_site_has_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="No model has a site"):
        names.check_sites([name])


@pytest.mark.parametrize("given", [[], [""], "layers.0.ffn", [3]])
def test_what_is_no_list_of_names_is_refused(given: object) -> None:
    with pytest.raises(UserError, match="at least one name"):
        names.check_sites(given)
