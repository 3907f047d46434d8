"""The one loader: every kind of model, and a readable paragraph for everything that is none."""

import json

import pytest
import torch
import transformers as tf
from transformers.utils import is_gguf_available

from layersmith import pocket
from layersmith.checkpoint import load
from layersmith.errors import MissingExtra, UserError
from layersmith.model.spec import expand, read_spec
from layersmith.model.transformer import TransformerLM
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import output


def changed(folder, change):
    """Apply `change` to the dict in the folder's config.json."""
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


KINDS = ["llama", "bert", "distilbert", "albert", "vit", "dinov2", "whisper", "t5"]


@pytest.mark.parametrize("name", KINDS)
def test_the_class_the_weights_were_saved_from(name, tmp_path):
    model, inputs = BY_NAME[name].model(), BY_NAME[name].inputs()
    model.half().save_pretrained(tmp_path)
    again, tokenizer = load(tmp_path)
    assert type(again) is type(model)
    assert again.dtype == torch.float32
    assert not again.training
    assert tokenizer is None
    model = model.float()
    if name == "llama":  # `half` rounded its rotary table too, which loading computes afresh
        model.model.rotary_emb.inv_freq = again.model.rotary_emb.inv_freq
    torch.testing.assert_close(output(again, inputs), output(model, inputs))
    assert load(tmp_path, dtype="auto")[0].dtype == torch.float16


NAMELESS = [(name, said) for name in KINDS for said in (None, ["NoSuchModel"])]
NAMELESS += [("llama", said) for said in ([], "LlamaForCausalLM", [7])]


@pytest.mark.parametrize(("name", "said"), NAMELESS)
def test_a_config_that_names_no_class_of_transformers(name, said, tmp_path):
    """Which class it is cannot be told from the tensors alone: a head that is not there would be random."""
    BY_NAME[name].model().save_pretrained(tmp_path)
    changed(tmp_path, lambda config: config.update(architectures=said) if said else config.pop("architectures"))
    with pytest.raises(UserError, match="architectures" if said != ["NoSuchModel"] else "'NoSuchModel'"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"architectures": ["MistralForCausalLM"]}, {"model_type": "mistral"}, {"architectures": ["BertModel"]}]
)
def test_a_class_of_another_config_is_refused(change, tmp_path):
    """Llama and Mistral share every name of a weight; a Llama made from Mistral's config would ignore its window."""
    BY_NAME["llama"].model().save_pretrained(tmp_path)
    changed(tmp_path, lambda config: config.update(change))
    with pytest.raises(UserError, match=r"model_type '\w+', but the class it names under architectures"):
        load(tmp_path)


def test_the_reference_model(tmp_path):
    spec = read_spec({"d_model": 16, "layers": [{"mixer": "deltanet"}, {"block": "parallel"}]})
    torch.manual_seed(0)
    model = TransformerLM(expand(spec, vocab_size=32)).eval()
    model.save_pretrained(tmp_path)
    again, tokenizer = load(tmp_path)
    assert (type(again), tokenizer) == (TransformerLM, None)
    inputs = {"input_ids": torch.arange(12).view(2, 6)}
    assert torch.equal(output(again, inputs), output(model, inputs))


def test_a_body_without_a_head(tmp_path):
    torch.manual_seed(0)
    tf.BertModel(BY_NAME["bert"].model().config).save_pretrained(tmp_path / "whole")
    assert type(load(tmp_path / "whole")[0]) is tf.BertModel
    BY_NAME["bert"].model().bert.save_pretrained(tmp_path / "bare")  # a BertModel without its pooler
    with pytest.raises(UserError, match=r"2 of its tensors are missing.*pooler\.dense\.bias"):
        load(tmp_path / "bare")


def test_pocket():
    model, tokenizer = load("pocket")
    assert model.dtype == torch.float32
    assert model.config.vocab_size == len(tokenizer)
    assert load(pocket.path())[0].config.to_dict() == model.config.to_dict()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "No model was named"),
        ("./nowhere", "no folder './nowhere'"),
        ("/no/such/folder", "no folder"),
        ("a/b/c", "no folder"),
        ("nobody/nothing-2b", "neither a folder here nor a model that can be reached"),
        ("pockte", "Did you mean 'pocket'"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(UserError, match=message):
        load(name)


def test_devices():
    model, _ = load("pocket", device="cpu")
    assert model.device.type == "cpu"
    with pytest.raises(UserError, match=r"'nowhere'.*Devices here: cpu"):
        load("pocket", device="nowhere")
    with pytest.raises(UserError, match="not both"):
        load("pocket", device="cpu", device_map="auto")


def test_folders_and_files_without_a_model(tmp_path):
    with pytest.raises(UserError, match="not a model folder"):
        load(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        load(tmp_path / "notes.txt")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(UserError, match=r"2 \.gguf files"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_type": "no-such-model"}', '{"model_type": "llama"}'])
def test_damaged_configs(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match="cannot be loaded"):
        load(tmp_path)


def test_code_that_comes_with_a_model_is_not_run_without_trust(tmp_path):
    """The config points at a Python file beside it; the file would leave a mark."""
    (tmp_path / "modeling_x.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    auto_map = {"AutoConfig": "modeling_x.Config", "AutoModelForCausalLM": "modeling_x.Model"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "x", "auto_map": auto_map}))
    with pytest.raises(UserError, match="trust"):
        load(tmp_path)
    assert not (tmp_path / "mark").exists()


def test_gguf_needs_its_extra(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"")
    monkeypatch.setattr("transformers.utils.is_gguf_available", lambda: False)
    with pytest.raises(MissingExtra, match=r"pip install '\.\[gguf\]'"):
        load(tmp_path)


@pytest.mark.skipif(not is_gguf_available(), reason="needs the extra gguf")
def test_a_damaged_gguf_file(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF but not really")
    for name in (tmp_path, tmp_path / "model.gguf"):
        with pytest.raises(UserError, match="cannot be loaded"):
            load(name)


@pytest.mark.real
def test_real_models(smollm2_path, minilm_path, albert_path):
    """A folder that holds nothing but a GGUF file, a sentence encoder and an ALBERT."""
    model, tokenizer = load(smollm2_path.parent)
    assert type(model) is tf.LlamaForCausalLM
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    assert "Paris" in tokenizer.decode(model.generate(**prompt, max_new_tokens=5, do_sample=False)[0])
    assert type(load(minilm_path)[0]) is tf.BertModel
    assert type(load(albert_path)[0]).__name__.startswith("Albert")
