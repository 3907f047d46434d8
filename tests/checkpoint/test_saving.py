"""Edited models come back from disk bit by bit, through every door, and damaged ones are refused."""

import copy
import json

import pytest
import safetensors.torch
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch import nn

from layersmith import catalogue
from layersmith.anatomy.edit import Edit, apply
from layersmith.checkpoint import LayersmithModel, load, save, save_result
from layersmith.contract import FeedForward
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from tests.anatomy.families import BY_NAME, FAMILIES
from tests.checkpoint.edited import edited, generated, output

GLU16 = {"name": "glu", "d_hidden": 16}
ATTENTION = {"name": "softmax_attention", "n_heads": 2}
LLAMA = BY_NAME["llama"].inputs()
SAVABLE = [f for f in FAMILIES if not f.name.startswith("torch")]


class Table(FeedForward):
    """A part of a user's own, with a table that is computed and not saved."""

    def __init__(self, d_model: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.register_buffer("table", torch.arange(d_model) / d_model, persistent=False)

    def forward(self, x):
        return x * self.gain * self.table


@pytest.mark.parametrize("family", SAVABLE, ids=lambda f: f.name)
def test_every_family(family, tmp_path):
    parts = {"ffn": GLU16} if family.blocks == 1 else {"ffn": GLU16, "layers_1_attn": ATTENTION}
    _, model, edits = edited(family.name, **parts)
    save(model, edits, tmp_path / "model")
    again, tokenizer = load(tmp_path / "model")
    assert tokenizer is None
    assert isinstance(again, LayersmithModel)
    assert torch.equal(output(again, family.inputs()), output(model, family.inputs()))


def llama_of(width):
    """The tiny Llama, of another width."""
    config = BY_NAME["llama"].model().config
    config.hidden_size, config.head_dim = width, width // config.num_attention_heads
    return tf.LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("name", sorted(n for n, entry in catalogue.ENTRIES.items() if entry.family != "scheme"))
def test_every_part(name, tmp_path):
    """Each part of the catalogue inside a Llama: the tensors it keeps, packed integers included, survive."""
    entry = catalogue.ENTRIES[name]
    torch.manual_seed(0)
    part = catalogue.build({"name": name, **entry.example}).eval()
    layer = "model.layers.1"
    path = {
        "ffn": f"{layer}.mlp",
        "mixer": f"{layer}.self_attn",
        "linear": f"{layer}.mlp.up_proj",
        "norm": f"{layer}.input_layernorm",
        "block": layer,
    }[entry.family]
    call = {}
    if entry.family in ("mixer", "block"):
        attention = entry.family == "mixer"
        call = {"style": "attention" if attention else "block", "outputs": 2 if attention else 0, "layer_idx": 1}
    model, edit = llama_of(entry.example.get("d_model", 32)), Edit(path, part.spec(), call)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    apply(model, [(edit, part)])
    save(model, [edit], tmp_path)
    again, _ = load(tmp_path)
    streams = getattr(part, "streams", True)  # what cannot go on from a state has no cache and does not write
    inputs = LLAMA if streams else {**LLAMA, "use_cache": False}
    assert torch.equal(output(again, inputs), output(model, inputs))
    if streams:
        assert torch.equal(generated(again, LLAMA), generated(model, LLAMA))


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModel"])
def test_the_auto_classes(auto, tmp_path):
    _, model, edits = edited(ffn=GLU16, layers_0_attn={"name": "zero"})
    model.generation_config.repetition_penalty = 1.7
    save(model, edits, tmp_path)
    again = getattr(tf, auto).from_pretrained(tmp_path)
    assert torch.equal(output(again, LLAMA), output(model, LLAMA))
    assert again.generation_config.repetition_penalty == 1.7
    assert torch.equal(generated(again, LLAMA), generated(model, LLAMA))
    assert again.config.vocab_size == 96
    assert again.config.num_hidden_layers == 2
    assert again.get_input_embeddings() is again.base.get_input_embeddings()


def test_options_reach_the_stock_model(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path)
    again = tf.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", device_map="cpu")
    assert again.base.config._attn_implementation == "eager"
    torch.testing.assert_close(output(again, LLAMA), output(model, LLAMA))


def test_an_encoder_does_not_generate(tmp_path):
    _, model, edits = edited("bert", ffn=GLU16)
    save(model, edits, tmp_path)
    again = tf.AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert not again.can_generate()
    assert again.generation_config is None


def test_tied_weights_stay_tied(tmp_path):
    torch.manual_seed(0)
    config = BY_NAME["llama"].model().config
    config.tie_word_embeddings = True
    model, edit = tf.LlamaForCausalLM(config).eval(), Edit("model.layers.0.mlp", GLU(32, 8).spec(), {})
    apply(model, [(edit, GLU(32, 8))])
    save(model, [edit], tmp_path)
    again, _ = load(tmp_path)
    assert again.base.lm_head.weight is again.base.model.embed_tokens.weight
    assert len(load_file(tmp_path / "model.safetensors")) == len(model.state_dict()) - 1
    assert torch.equal(output(again, LLAMA), output(model, LLAMA))


def test_bfloat16_as_stored_and_widened(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    inv_freq = model.model.rotary_emb.inv_freq.clone()
    model = model.bfloat16()
    model.model.rotary_emb.inv_freq = inv_freq  # from_pretrained keeps this table in float32, `bfloat16()` does not
    save(model, edits, tmp_path)
    stored, _ = load(tmp_path, dtype="auto")
    assert stored.base.model.layers[0].mlp.up.weight.dtype == stored.dtype == torch.bfloat16
    assert torch.equal(output(stored, LLAMA), output(model, LLAMA))
    assert load(tmp_path)[0].dtype == torch.float32


def test_save_load_save_is_stable(tmp_path):
    _, model, edits = edited(ffn=GLU16, layers_1_attn=ATTENTION)
    save(model, edits, tmp_path / "one")
    save(load(tmp_path / "one")[0], [], tmp_path / "two")
    load(tmp_path / "two")[0].save_pretrained(tmp_path / "three")
    for name in ("config.json", "model.safetensors", "generation_config.json", "modeling_layersmith.py"):
        files = {(tmp_path / folder / name).read_bytes() for folder in ("one", "two", "three")}
        assert len(files) == 1, name
    assert "/" not in (tmp_path / "two" / "config.json").read_text().replace("</", "")  # no path of this machine


def test_a_loaded_model_can_be_edited_again(tmp_path):
    """A second edit inside the first, one in place of the first, and one elsewhere."""
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path / "one")
    model, _ = load(tmp_path / "one")
    new = [
        (Edit("base.model.layers.0.mlp.up", {"name": "low_rank", "d_in": 32, "d_out": 16, "rank": 4}, {}), None),
        (Edit("base.model.layers.1.mlp", {"name": "zero", "d_model": 32}, {}), None),
        (Edit("base.model.norm", {"name": "dyt", "d_model": 32}, {}), None),
    ]
    apply(model, [(edit, catalogue.build(edit.spec)) for edit, _ in new])
    save(model, [edit for edit, _ in new], tmp_path / "two")
    again, _ = load(tmp_path / "two")
    assert len(again.config.edits) == 4
    assert torch.equal(output(again, LLAMA), output(model, LLAMA))


def test_a_users_own_part_needs_trust_and_gets_its_tables_back(tmp_path):
    model = BY_NAME["llama"].model()
    edit = Edit("model.layers.0.mlp", Table(32).spec(), {})
    apply(model, [(edit, Table(32))])
    save(model, [edit], tmp_path)
    with pytest.raises(UserError, match="trust"):
        load(tmp_path)
    again, _ = load(tmp_path, trust_remote_code=True)
    assert torch.equal(output(again, LLAMA), output(model, LLAMA))


def test_edits_that_do_not_describe_the_model_are_refused(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    with pytest.raises(UserError, match=r"do not describe this model.*layers\.0\.mlp"):
        save(model, edits[1:], tmp_path / "model")
    wrong = Edit(edits[0].path, {**edits[0].spec, "d_hidden": 24}, {})
    with pytest.raises(UserError, match=r"\(32, 16\).*\(32, 24\)"):
        save(model, [wrong, edits[1]], tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_only_models_of_transformers_are_saved(tmp_path):
    class LlamaForCausalLM(tf.LlamaForCausalLM):
        pass

    model = LlamaForCausalLM(BY_NAME["llama"].model().config)
    for unknown in (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), 1), model):
        with pytest.raises(UserError, match="not a model class of transformers"):
            save(unknown, [], tmp_path / "model")


@pytest.fixture
def saved(tmp_path):
    _, model, edits = edited(ffn=GLU16)
    save(model, edits, tmp_path)
    return tmp_path


def tamper(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(base_class="../../evil"), "not a model class"),
        (lambda c: c.update(base_class="PreTrainedModel"), "not a model class"),
        (lambda c: c.update(base_class="AutoModel"), "not a model class"),
        (lambda c: c.update(base_class="GPT2LMHeadModel"), "changed or damaged"),
        (lambda c: c["base_config"].update(model_type="layersmith"), "no model type"),
        (lambda c: c["base_config"].update(model_type="../x"), "no model type"),
        (lambda c: c["edits"][0]["spec"].update(name="os:system"), "trust"),
        (lambda c: c["edits"][0]["spec"].update(name="../glu"), "no part"),
        (lambda c: c["edits"][0]["spec"].update(surprise=1), "does not take"),
        (lambda c: c["edits"][0].update(path="../../etc"), "no module at"),
        (lambda c: c["edits"][0].update(path="model.layers.0.mlp.__class__"), "no module at"),
        (lambda c: c["edits"][0].update(call={"style": "exec"}), "calling convention"),
        (lambda c: c["edits"].append("x"), "An edit has"),
        (lambda c: c["edits"].pop(), "missing or belong nowhere"),
    ],
)
def test_a_tampered_config_is_refused(saved, change, message):
    tamper(saved, change)
    with pytest.raises(UserError, match=message):
        load(saved)


def test_damaged_weights_are_refused(saved):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    tensors = safetensors.torch.load(whole)  # not mapped from the file, which is about to be cut short
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be loaded"):
        load(saved)
    name = "base.model.layers.0.mlp.up.weight"
    save_file({k: v for k, v in tensors.items() if k != name}, file, {"format": "pt"})
    with pytest.raises(UserError, match=name):
        load(saved)
    surplus = "base.model.layers.0.mlp.down.bias"
    save_file({**tensors, surplus: torch.zeros(32)}, file, {"format": "pt"})
    with pytest.raises(UserError, match=surplus):
        load(saved)
    save_file({**tensors, name: torch.zeros(3, 3)}, file, {"format": "pt"})
    with pytest.raises(UserError, match="cannot be loaded"):
        load(saved)


def test_the_stock_format_where_it_is_enough(tmp_path):
    original, model, edits = edited(layers_1={"name": "zero"})
    assert save_result(model, original, edits, tmp_path / "a") == "stock"
    assert type(load(tmp_path / "a")[0]) is tf.LlamaForCausalLM
    original, model, edits = edited(layers_1_attn={"name": "zero"})
    assert save_result(model, original, edits, tmp_path / "b") == "layersmith"
    assert torch.equal(output(load(tmp_path / "b")[0], LLAMA), output(model, LLAMA))


def test_training_goes_on_after_loading(saved):
    model, _ = load(saved)
    before = copy.deepcopy(model.base.model.layers[0].mlp.up.weight)
    loss = model(**LLAMA, labels=LLAMA["input_ids"]).loss
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(before, model.base.model.layers[0].mlp.up.weight)
