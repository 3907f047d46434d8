"""What would fail at the end of a run fails at its start, or works: the untouched model saved, reloaded, compared."""

import copy
import json
import warnings

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy import find_sites, replacement_for
from layersmith.anatomy.edit import Edit, apply
from layersmith.checkpoint import (
    load,
    rehearse,
    reload,
    round_to_stored,
    save,
    save_result,
    stock,
    stored_as,
    stored_bytes_on_disk,
    stored_dtype,
    stored_dtypes,
    verify,
    verify_reload,
)
from layersmith.checkpoint.stored import stored_tensors
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.ffn.zero import Zero
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, generated, output

LLAMA = BY_NAME["llama"].inputs()
GLU16 = {"name": "glu", "d_hidden": 16}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Reload here, which takes no seconds; that it is a fresh process is for test_verify.py."""
    monkeypatch.setattr(verify, "_run", lambda job, scratch: str(reload.main(job)))


def llama(**settings):
    torch.manual_seed(0)
    config = tf.LlamaConfig(**{**BY_NAME["llama"].model().config.to_dict(), **settings})
    return tf.LlamaForCausalLM(config).eval()


def shared_layers():
    model = llama()
    model.model.layers[1] = model.model.layers[0]
    return model


def with_generation_settings():
    model = llama()
    model.config.num_beams = 3  # as old configs have it, and code sets it
    return model


def static_cache():
    model = llama()
    model.generation_config.cache_implementation = "static"
    return model


def mixed():
    model = llama().bfloat16()
    model.model.norm.float()
    for layer in model.model.layers:
        layer.input_layernorm.float()
    return model


def marian():
    torch.manual_seed(0)
    return tf.MarianMTModel(
        tf.MarianConfig(vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=0,
                        eos_token_id=1, forced_eos_token_id=1, decoder_start_token_id=0, max_position_embeddings=64)
    ).eval()  # fmt: skip


def tokens():
    torch.manual_seed(0)
    config = tf.BertConfig(**{**BY_NAME["bert"].model().config.to_dict(), "num_labels": 5})
    return tf.BertForTokenClassification(config).eval()


SEQ2SEQ = {"input_ids": torch.arange(2, 12)[None], "decoder_input_ids": torch.arange(2, 8)[None]}
CASES = {
    "plain": (llama, LLAMA),
    "tied": (lambda: llama(tie_word_embeddings=True), LLAMA),
    "generation settings in the config": (with_generation_settings, LLAMA),
    "static cache": (static_cache, LLAMA),
    "marian": (marian, SEQ2SEQ),
    "token classification": (tokens, {"input_ids": torch.arange(2, 12)[None]}),
}


@pytest.mark.parametrize("case", CASES)
def test_models_that_come_back_in_both_formats(case, tmp_path):
    make, inputs = CASES[case]
    assert rehearse(make(), inputs, tmp_path / "scratch") == {"stock": ""}
    assert not (tmp_path / "scratch").exists()


def test_return_dict_false_in_the_config(tmp_path):
    """With it, the stock class itself fails when it is called."""
    model = llama()
    expected = output(model, LLAMA)
    model.config.return_dict = False
    model.save_pretrained(tmp_path / "source")
    again, _ = load(tmp_path / "source")
    assert rehearse(again, LLAMA, tmp_path / "scratch") == {"stock": ""}
    save(again, [], tmp_path / "model")
    assert torch.equal(output(load(tmp_path / "model")[0], LLAMA), expected)


def test_shared_modules_stay_shared(tmp_path):
    model = shared_layers()
    assert "several places" in rehearse(model, LLAMA, tmp_path / "scratch")["stock"]
    edit = Edit("model.layers.0.mlp", GLU(32, 16).spec(), {})
    apply(model, [(edit, GLU(32, 16))])
    assert save_result(model, shared_layers(), [edit], tmp_path / "model") == "layersmith"
    assert verify_reload(tmp_path / "model", model, LLAMA) == 0.0
    again, _ = load(tmp_path / "model")
    assert again.base.model.layers[1] is again.base.model.layers[0]
    save(again, [], tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes()


def test_a_static_cache_still_generates_after_a_change(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    expected = generated(model, LLAMA)
    model.generation_config.cache_implementation = "static"
    save(model, edits, tmp_path)
    again, _ = load(tmp_path)
    assert again.generation_config.cache_implementation == "static"
    assert torch.equal(generated(again, LLAMA), expected)


def test_generation_settings_of_the_config_are_kept(tmp_path):
    save(with_generation_settings(), [], tmp_path)
    assert load(tmp_path)[0].generation_config.num_beams == 3


class Adapted(nn.Module):
    """What a model wrapped by PEFT looks like from outside."""

    def __init__(self, model):
        super().__init__()
        self.base_model, self.name_or_path = model, ""

    def merge_and_unload(self):
        return self.base_model


class OwnModel(tf.LlamaForCausalLM):
    """A model class that transformers does not have, as remote code brings them."""


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Adapted(llama()), "merge_and_unload"),
        (lambda: OwnModel(llama().config), "code is never put into a saved model"),
    ],
)
def test_models_that_no_result_could_be_saved_of(make, reason, tmp_path):
    with pytest.raises(UserError, match=f"Nothing was started.*{reason}"):
        rehearse(make(), LLAMA, tmp_path / "scratch")
    assert not (tmp_path / "scratch").exists()


def test_a_stock_form_that_does_not_come_back_is_only_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(tf.LlamaForCausalLM, "save_pretrained", lambda *_: 1 / 0)
    assert "division by zero" in rehearse(llama(), LLAMA, tmp_path / "scratch")["stock"]
    original, model, edits = edited(layers_1={"name": "zero"})
    assert save_result(model, original, edits, tmp_path / "model") == "layersmith"
    assert save_result(model, original, edits, tmp_path / "model", try_stock=False) == "layersmith"
    monkeypatch.setattr(stock, "_write", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # our own faults are not taken for reasons
        rehearse(llama(), LLAMA, tmp_path / "scratch")


def forgetful(value):
    """A rotary embedding whose table, computed at construction, comes back as `value` when it is loaded."""

    def renew(self, module):
        if hasattr(module, "inv_freq"):
            module.inv_freq.fill_(value)

    return renew


@pytest.mark.parametrize("value", [float("nan"), 7.0, 0.0])
def test_a_table_that_comes_back_as_garbage(value, monkeypatch, tmp_path):
    model = llama()
    monkeypatch.setattr(tf.LlamaPreTrainedModel, "_init_weights", forgetful(value))
    with pytest.raises(UserError, match=r"Nothing was started.*output differs"):
        rehearse(model, LLAMA, tmp_path / "scratch")


def test_tables_are_compared_where_no_output_shows_them(monkeypatch, tmp_path):
    """A model may be looked at for fewer tokens than its tables are long."""
    model = llama()
    model.model.register_buffer("unused", torch.arange(4.0), persistent=False)
    save(model, [], tmp_path)

    class Loaded(tf.LlamaModel):
        def __init__(self, config):
            super().__init__(config)
            self.register_buffer("unused", torch.zeros(4), persistent=False)

    monkeypatch.setattr("transformers.models.llama.modeling_llama.LlamaModel", Loaded)
    with pytest.raises(UserError, match=r"buffer model\.unused"):
        verify_reload(tmp_path, model, LLAMA)


def test_a_model_that_yields_nan_is_never_equal(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    with torch.no_grad():
        model.lm_head.weight[0] = float("nan")
    save(model, edits, tmp_path)
    with pytest.raises(UserError, match="differs by nan"):
        verify_reload(tmp_path, model, LLAMA)


# -- dtypes -------------------------------------------------------------------------------------------------------


def dtypes_in(folder):
    return {name.removeprefix("base."): tensor.dtype for name, tensor in stored_tensors(folder).items()}


@pytest.mark.parametrize("kind", ["stock", "layersmith"])
def test_a_result_is_stored_in_the_dtypes_of_its_source(kind, tmp_path):
    """bf16 with norms in fp32: each keeps its own, under its new number where a block is dropped."""
    mixed().save_pretrained(tmp_path / "source")
    model, _ = load(tmp_path / "source")
    assert model.dtype == torch.float32
    changed = copy.deepcopy(model)
    site = find_sites(model).site("layers.0" if kind == "stock" else "layers.0.ffn")
    replacement = replacement_for(model, site, Zero(32) if kind == "stock" else GLU(32, 16))
    apply(changed, replacement)
    round_to_stored(changed, stored_dtypes(model))
    assert save_result(changed, model, [edit for edit, _ in replacement], tmp_path / "model") == kind
    found = dtypes_in(tmp_path / "model")
    norms = {name for name in found if "input_layernorm" in name or name == "model.norm.weight"}
    assert len(norms) == (2 if kind == "stock" else 3)
    assert {found.pop(name) for name in norms} == {"F32"}
    assert set(found.values()) == {"BF16"}
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert stored_dtype(tmp_path / "model") == torch.bfloat16
    assert verify_reload(tmp_path / "model", changed, LLAMA) < 1e-6  # what is measured is what is stored
    assert stored_bytes_on_disk(tmp_path / "model") < stored_bytes_on_disk(tmp_path / "source")


@pytest.mark.parametrize(("choice", "stored"), [("auto", "BF16"), ("float32", "F32"), ("float16", "F16")])
def test_the_dtype_can_be_chosen(choice, stored, tmp_path):
    llama().bfloat16().save_pretrained(tmp_path / "source")
    model, _ = load(tmp_path / "source")
    with stored_as(model, choice):
        save(model, [], tmp_path / "model")
        save_result(model, model, [], tmp_path / "stock")
    for name in ("model", "stock"):
        assert set(dtypes_in(tmp_path / name).values()) == {stored}
    save(model, [], tmp_path / "after")
    assert set(dtypes_in(tmp_path / "after").values()) == {"BF16"}  # the caller's model is as it was


def test_a_model_handed_over_keeps_the_dtypes_it_has_through_work_in_another(tmp_path):
    for dtype, name in ((torch.bfloat16, "BF16"), (torch.float64, "F64"), (torch.float32, "F32")):
        model = llama().to(dtype)
        with stored_as(model, "auto"):
            save(model.float(), [], tmp_path / name)
        assert set(dtypes_in(tmp_path / name).values()) == {name}


def test_nothing_is_warned_about_a_whole_model(tmp_path):
    llama().save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(output(load(tmp_path)[0], LLAMA), output(llama(), LLAMA))
