"""What lies beside the weights decides what a model is given and what becomes of its output: it is kept."""

import json

import pytest
import torch
import transformers as tf

from layersmith.checkpoint import load, save, save_result
from layersmith.errors import UserError
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited

GLU16 = {"name": "glu", "d_hidden": 16}
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    {"idx": 3, "name": "3", "path": "3_Normalize", "type": "sentence_transformers.models.Normalize"},
]
FILES = {
    "modules.json": json.dumps(MODULES),
    "sentence_bert_config.json": '{"max_seq_length": 256, "do_lower_case": false}',
    "config_sentence_transformers.json": '{"prompts": {"query": "q: "}}',
    "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
    "2_Dense/config.json": '{"in_features": 32}',
    "2_Dense/model.safetensors": "weights of a module",
    "preprocessor_config.json": '{"size": 30}',
    "chat_template.jinja": "{{ messages }}",
    "additional_chat_templates/tool.jinja": "{{ tools }}",
    "LICENSE": "as it was",
}
NOT_KEPT = {
    "code.py": "1 / 0",
    "1_Pooling/code.py": "1 / 0",
    "pytorch_model.bin": "another form of the weights",
    "adapter.safetensors": "x",
    "trainer_state.json": "{}",
    "README.md": "about the original",
}


def encoder(folder, name="bert"):
    torch.manual_seed(0)
    model = tf.BertModel(BY_NAME["bert"].model().config)
    model.save_pretrained(folder)
    for name, text in {**FILES, **NOT_KEPT}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "3_Normalize").mkdir()


@pytest.mark.parametrize("kind", ["stock", "layersmith"])
def test_all_of_a_sentence_encoder_arrives_byte_for_byte(kind, tmp_path):
    encoder(tmp_path / "source")
    model, _ = load(tmp_path / "source")
    assert model.name_or_path == str(tmp_path / "source")
    if kind == "stock":
        assert save_result(model, model, [], tmp_path / "model") == "stock"
    else:
        save(model, [], tmp_path / "model")
    for name, text in FILES.items():
        assert (tmp_path / "model" / name).read_text() == text, name
    assert (tmp_path / "model" / "3_Normalize").is_dir()  # it has no files, and is named in modules.json
    assert not any((tmp_path / "model" / name).exists() for name in NOT_KEPT)
    again, _ = load(tmp_path / "model")  # and once more, from the copy
    save(again, [], tmp_path / "again")
    assert (tmp_path / "again" / "1_Pooling" / "config.json").is_file()


def test_the_body_is_what_a_sentence_encoder_runs(tmp_path):
    """Its config may name a class with a head that it does not have."""
    encoder(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "architectures": ["BertForMaskedLM"]}))
    assert type(load(tmp_path)[0]) is tf.BertModel


@pytest.mark.parametrize("modules", ["{", "{}", '[{"path": "../up"}]', '[{"path": "/etc"}]', '[{"path": ".."}]', "[3]"])
def test_modules_outside_the_folder_are_refused(modules, tmp_path):
    encoder(tmp_path)
    (tmp_path / "modules.json").write_text(modules)
    with pytest.raises(UserError, match=r"modules\.json"):
        load(tmp_path)


def test_links_out_of_the_folder_are_not_followed(tmp_path):
    encoder(tmp_path / "source")
    (tmp_path / "secret.json").write_text('"secret"')
    (tmp_path / "source" / "vocabulary.json").symlink_to(tmp_path / "secret.json")
    (tmp_path / "source" / "1_Pooling" / "more.json").symlink_to(tmp_path / "secret.json")
    save(load(tmp_path / "source")[0], [], tmp_path / "model")
    assert not list((tmp_path / "model").rglob("vocabulary.json"))
    assert not list((tmp_path / "model").rglob("more.json"))


def test_a_download_cache_links_into_its_own_store(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "123"
    store = tmp_path / "models--a--b" / "blobs"
    store.mkdir(parents=True)
    encoder(snapshot)
    for name in ("preprocessor_config.json", "config.json", "model.safetensors"):
        (snapshot / name).rename(store / name)
        (snapshot / name).symlink_to(store / name)
    save(load(snapshot)[0], [], tmp_path / "model")
    assert (tmp_path / "model" / "preprocessor_config.json").read_text() == FILES["preprocessor_config.json"]


def test_a_model_from_nowhere_has_no_companions(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {"config.json", "generation_config.json", "model.safetensors", "modeling_layersmith.py"}
