"""A folder with an adapter of PEFT is a model: its base with the adapter merged; one for another model is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf

from layersmith import names
from layersmith.checkpoint import load
from layersmith.checkpoint.peft_adapter import merged
from layersmith.errors import UserError
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import output

INPUTS = BY_NAME["llama"].inputs()


def test_a_folder_that_names_no_base_or_a_slip_of_one_is_refused_at_once(tmp_path: Path) -> None:
    config = tmp_path / "adapter_config.json"
    for written, said in [
        ({}, "adapter without its base model"),
        ({"base_model_name_or_path": str(tmp_path)}, "adapter without its base model"),
        ({"base_model_name_or_path": "pokcet"}, "Did you mean 'pocket'"),
    ]:
        config.write_text(json.dumps(written))
        with pytest.raises(UserError, match=said):
            names.model_source(str(tmp_path))


def test_adapters_that_name_each_other_have_no_base(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, other in zip(folders, folders[::-1], strict=True):
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(other)}))
    with pytest.raises(UserError, match="adapter without its base model"):
        names.model_source(str(folders[0]))


def test_a_gguf_file_that_is_named_is_read_whatever_adapter_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "pocket"}))
    (tmp_path / "named.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"named\.gguf|Reading a \.gguf file"):
        load(str(tmp_path / "named.gguf"))


def test_the_tokenizer_beside_an_adapter_is_the_model_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("layersmith.checkpoint.loading.merged", lambda model, folder: model)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "pocket"}))
    _, usual = load(str(tmp_path))
    assert usual is not None
    assert usual.chat_template != "mine"
    usual.chat_template = "mine"
    usual.save_pretrained(tmp_path)
    _, own = load(str(tmp_path))
    assert own is not None
    assert own.chat_template == "mine"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    BY_NAME["llama"].model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def adapter(base: Path, folder: Path, **options: Any) -> Any:
    """An adapter on the model in a folder, saved in another: the wrapped model."""
    peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install '.[dev]')")
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 2, "target_modules": "all-linear", **options}))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    wrapped.save_pretrained(folder)
    return wrapped.eval()


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_it_answers_as_the_adapted_model(base: Path, tmp_path: Path, kind: dict[str, Any]) -> None:
    expected = output(adapter(base, tmp_path / "adapter", **kind), INPUTS)
    model, _ = load(str(tmp_path / "adapter"))
    assert type(model) is tf.LlamaForCausalLM
    assert model.name_or_path == str(base)
    torch.testing.assert_close(output(model, INPUTS), expected, rtol=1e-4, atol=1e-4)
    plain, _ = load(str(base))
    assert (output(plain, INPUTS) - expected).abs().max() > 1e-2
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert all(p.requires_grad for p in model.parameters())
    model.save_pretrained(tmp_path / "saved")
    again, _ = load(str(tmp_path / "saved"))
    assert torch.equal(output(again, INPUTS), output(model, INPUTS))


def test_one_that_was_made_for_another_model_is_refused_in_one_paragraph(base: Path, tmp_path: Path) -> None:
    adapter(base, tmp_path / "adapter", target_modules=["q_proj", "down_proj"])  # in every layer that there is
    config = tf.AutoConfig.from_pretrained(base)
    told = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    for change, kind in [
        ({"hidden_size": 48, "head_dim": 12}, tf.LlamaForCausalLM),
        ({"num_hidden_layers": 1}, tf.LlamaForCausalLM),
        ({"num_hidden_layers": 3}, tf.LlamaForCausalLM),
    ]:
        other = tf.LlamaConfig.from_dict({**config.to_dict(), **change})
        kind(other).save_pretrained(tmp_path / "other")
        told["base_model_name_or_path"] = str(tmp_path / "other")
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(told))
        with pytest.raises(UserError, match="was made for another model than") as refused:
            load(str(tmp_path / "adapter"))
        assert "\n" not in str(refused.value)


def test_no_module_that_a_folder_names_is_imported(tmp_path: Path) -> None:
    told = {"base_model_name_or_path": "pocket", "megatron_config": {"size": 1}, "megatron_core": "adapter.code"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(told))
    with pytest.raises(UserError, match="names a module to import"):
        merged(BY_NAME["llama"].model(), tmp_path)


def test_what_is_pickled_or_cannot_be_merged_is_refused(base: Path, tmp_path: Path) -> None:
    wrapped = adapter(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(UserError, match="A pickled one is not read"):
        load(str(tmp_path / "adapter"))
    import peft

    del wrapped
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(UserError, match="cannot be merged"):
        load(str(tmp_path / "prompt"))


def test_a_vocabulary_that_grew_with_the_adapter_is_the_model_s(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="PEFT is not installed (pip install '.[dev]')")
    model = tf.AutoModelForCausalLM.from_pretrained(base)
    rows = model.config.vocab_size + 3
    model.resize_token_embeddings(rows)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "adapter")
    found, _ = load(str(tmp_path / "adapter"))
    assert found.get_input_embeddings().weight.shape[0] == rows
    inputs = {**INPUTS, "input_ids": INPUTS["input_ids"].clone()}
    inputs["input_ids"][:, -1] = rows - 1
    torch.testing.assert_close(output(found, inputs), output(wrapped.eval(), inputs), rtol=1e-4, atol=1e-4)


def test_embeddings_that_were_saved_with_an_adapter_are_taken(base: Path, tmp_path: Path) -> None:
    wrapped = adapter(base, tmp_path / "adapter", target_modules=["q_proj"])
    with torch.no_grad():
        wrapped.get_base_model().get_input_embeddings().weight.mul_(1.5)
    wrapped.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    found, _ = load(str(tmp_path / "adapter"))
    torch.testing.assert_close(output(found, INPUTS), output(wrapped, INPUTS), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_merged_into_one_weight_is_refused(base: Path, tmp_path: Path) -> None:
    adapter(base, tmp_path / "shifted", target_modules=["q_proj"], lora_bias=True)  # the map has no bias to hold it
    with pytest.raises(UserError, match="cannot be merged") as refused:
        load(str(tmp_path / "shifted"))
    assert "\n" not in str(refused.value)
    config = tf.LlamaConfig.from_dict({**tf.AutoConfig.from_pretrained(base).to_dict(), "tie_word_embeddings": True})
    tf.LlamaForCausalLM(config).save_pretrained(tmp_path / "tied")
    adapter(tmp_path / "tied", tmp_path / "head", target_modules=["lm_head"])
    with pytest.raises(UserError, match="another module shares"):
        load(str(tmp_path / "head"))
