"""Dropped blocks and uniform widths become plain stock models with the same outputs; nothing else does."""

import json

import pytest
import torch
import transformers as tf

from layersmith.checkpoint import export_stock
from layersmith.checkpoint.loading import load
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, generated, output

ZERO = {"name": "zero"}
DROPPABLE = ["llama", "mistral", "qwen3", "gemma3", "gpt2", "gpt_neox", "opt", "bert", "distilbert", "vit", "dinov2"]
#: our part for each family's feed-forward
PLAIN = {"gpt2": "gelu_tanh", "gpt_neox": "gelu", "opt": "relu", "bert": "gelu", "distilbert": "gelu", "vit": "gelu"}
GATED = {"llama": "silu", "mistral": "silu", "qwen3": "silu", "gemma3": "gelu_tanh"}
NARROW = {
    **{name: {"name": "mlp", "d_hidden": 16, "act": act} for name, act in PLAIN.items()},
    **{name: {"name": "glu", "d_hidden": 16, "act": act} for name, act in GATED.items()},
}


def exported(folder, family, **parts):
    """(stock model loaded again, edited model) after a successful export."""
    original, model, edits = edited(family, **parts)
    with torch.no_grad():  # trained further: nothing may be taken from the original
        for parameter in model.parameters():
            parameter.mul_(1.01)
    assert export_stock(model, original, edits, folder) == ""
    again, _ = load(folder)
    assert type(again) is type(original)
    return again, model


@pytest.mark.parametrize("family", DROPPABLE)
@pytest.mark.parametrize("layer", [0, 1])
def test_a_dropped_block(family, layer, tmp_path):
    again, model = exported(tmp_path, family, **{f"layers_{layer}": ZERO})
    inputs = BY_NAME[family].inputs()
    torch.testing.assert_close(output(again, inputs), output(model, inputs))
    assert again.config.num_hidden_layers == 1
    if BY_NAME[family].generates:
        assert torch.equal(generated(again, inputs), generated(model, inputs))


@pytest.mark.parametrize("family", sorted(NARROW))
def test_a_narrower_feed_forward_everywhere(family, tmp_path):
    again, model = exported(tmp_path, family, ffn=NARROW[family])
    inputs = BY_NAME[family].inputs()
    torch.testing.assert_close(output(again, inputs), output(model, inputs), rtol=1e-4, atol=1e-5)
    assert 16 in json.loads((tmp_path / "config.json").read_text()).values()


def test_both_together_and_a_block_dropped_part_by_part(tmp_path):
    again, model = exported(tmp_path, "llama", layers_0_attn=ZERO, layers_0_ffn=ZERO, layers_1_ffn=NARROW["llama"])
    torch.testing.assert_close(output(again, BY_NAME["llama"].inputs()), output(model, BY_NAME["llama"].inputs()))
    assert (again.config.num_hidden_layers, again.config.intermediate_size) == (1, 16)


@pytest.mark.parametrize(
    ("family", "parts", "depths"),
    [("whisper", {"encoder_layers_0": ZERO}, (1, 2)), ("whisper", {"decoder_layers_1": ZERO}, (2, 1))],
)
def test_one_stack_of_two(family, parts, depths, tmp_path):
    again, model = exported(tmp_path, family, **parts)
    inputs = BY_NAME[family].inputs()
    torch.testing.assert_close(output(again, inputs), output(model, inputs))
    assert (again.config.encoder_layers, again.config.decoder_layers) == depths


def test_t5_loses_a_later_block_only(tmp_path):
    again, model = exported(tmp_path, "t5", decoder_layers_1=ZERO)
    inputs = BY_NAME["t5"].inputs()
    torch.testing.assert_close(output(again, inputs), output(model, inputs))


def test_one_matrix_for_gate_and_up(tmp_path):
    from layersmith import catalogue
    from layersmith.anatomy import find_sites, replacement_for
    from layersmith.anatomy.edit import apply

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = tf.Phi3Config(**sizes, **tokens, num_hidden_layers=1, num_key_value_heads=2)
    original, model = (tf.Phi3ForCausalLM(config).eval() for _ in range(2))
    model.load_state_dict(original.state_dict())
    part = catalogue.build({"name": "glu", "d_model": 32, "d_hidden": 16})
    replacement = replacement_for(original, find_sites(original).site("layers.0.ffn"), part)
    apply(model, replacement)
    assert export_stock(model, original, [edit for edit, _ in replacement], tmp_path) == ""
    ids = {"input_ids": torch.arange(12)[None]}
    torch.testing.assert_close(output(load(tmp_path)[0], ids), output(model, ids))


@pytest.mark.parametrize(
    ("family", "parts", "reason"),
    [
        ("llama", {"layers_1_attn": ZERO}, "has become 'zero'"),
        ("llama", {"layers_1_ffn": NARROW["llama"]}, "different widths"),
        ("llama", {"ffn": {"name": "glu", "d_hidden": 16, "act": "relu"}}, "computes something else"),
        ("llama", {"ffn": {"name": "gr_kan", "d_hidden": 16}}, "has become 'gr_kan'"),
        ("llama", {"ffn": {"name": "mlp", "d_hidden": 16}}, "has become 'mlp'"),
        ("llama", {"layers_0": ZERO, "layers_1": ZERO}, "no block is left"),
        ("albert", {"layers_0": ZERO}, "share their weights"),
        ("mixtral", {"ffn": {"name": "glu", "d_hidden": 16}}, "neither a plain nor a gated"),
        ("dinov2", {"ffn": {"name": "mlp", "d_hidden": 16}}, "config does not say"),
        ("torch_pre_norm", {"layers_0_ffn": ZERO}, "not a model class of transformers"),
    ],
)
def test_what_stock_models_cannot_express(family, parts, reason, tmp_path):
    original, model, edits = edited(family, **parts)
    assert reason in export_stock(model, original, edits, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_no_edits_at_all(tmp_path):
    again, model = exported(tmp_path, "llama")
    assert torch.equal(output(again, BY_NAME["llama"].inputs()), output(model, BY_NAME["llama"].inputs()))
