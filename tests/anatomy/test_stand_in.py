"""What stands in for a module is looked at and recorded like it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy import find_sites, original, swap
from layersmith.ffn.zero import Zero
from tests.anatomy.families import BY_NAME


def asked(model: nn.Module, inputs: dict[str, Any]) -> Any:
    with torch.no_grad():
        return model(**inputs, output_hidden_states=True, output_attentions=True)


def eager(name: str) -> Any:
    model = BY_NAME[name].model()
    model.set_attn_implementation("eager")
    return model


def test_a_model_first_asked_inside_a_swap_is_whole_afterwards() -> None:
    """transformers installs its recording hooks once; it used to be on whatever stood in."""
    model, inputs = eager("llama"), BY_NAME["llama"].inputs()
    expected = asked(copy.deepcopy(model), inputs)
    with swap(model, {"layers.0": Zero(32)}):
        inside = asked(model, inputs)
    after = asked(model, inputs)
    assert len(inside.hidden_states) == len(expected.hidden_states) == 3
    assert len(inside.attentions) == len(expected.attentions) == 2
    assert torch.equal(inside.hidden_states[1], inside.hidden_states[0]), "the dropped block hands its input on"
    assert inside.attentions[0] is None, "nothing computed weights there"
    assert inside.attentions[1].shape == expected.attentions[1].shape, "the other block's weights keep their place"
    for what in ("hidden_states", "attentions"):
        assert all(torch.equal(a, b) for a, b in zip(after[what], expected[what], strict=True))


def test_a_copy_records_what_the_original_does() -> None:
    """Whether it was made before the hooks were there or after."""
    model, inputs = eager("llama"), BY_NAME["llama"].inputs()
    anatomy = find_sites(model)
    expected = asked(copy.deepcopy(model), inputs)
    early = copy.deepcopy(original(model, anatomy.site("layers.0")))
    for block in (early, None):
        stand_in = block or copy.deepcopy(original(model, anatomy.site("layers.0")))
        with swap(model, {"layers.0": stand_in}, anatomy):
            inside = asked(model, inputs)
        assert len(inside.hidden_states) == 3
        assert all(torch.equal(a, b) for a, b in zip(inside.attentions, expected.attentions, strict=True))


def test_what_comes_from_a_copy_that_was_swapped_is_recorded() -> None:
    """Its hooks are parked; those of the model that it is put into are on."""
    model, inputs = eager("llama"), BY_NAME["llama"].inputs()
    swapped = copy.deepcopy(model)
    with swap(swapped, {"layers.0.ffn": Zero(32)}):
        pass
    expected = asked(model, inputs)
    for name in ("layers.0", "layers.1.attn"):
        stand_in = copy.deepcopy(original(swapped, find_sites(swapped).site(name)))
        with swap(model, {name: stand_in}):
            inside = asked(model, inputs)
        for what in ("hidden_states", "attentions"):
            assert all(torch.equal(a, b) for a, b in zip(inside[what], expected[what], strict=True))


def test_hooks_are_installed_once() -> None:
    """Part of the model was asked before, then all of it was swapped: still one entry for each layer."""
    model, inputs = eager("llama"), BY_NAME["llama"].inputs()
    asked(model.model, inputs)
    with swap(model, {"layers.0.ffn": Zero(32)}):
        assert len(asked(model, inputs).hidden_states) == 3
    assert len(asked(model, inputs).hidden_states) == 3
    assert len(asked(model.model, inputs).attentions) == 2


def test_hooks_are_put_on_when_something_is_to_be_recorded_and_not_before() -> None:
    """Each one costs time at every call of its module."""

    def hooks(of: nn.Module) -> int:
        return sum(len(module._forward_hooks) for module in of.modules())

    model, inputs = eager("llama"), BY_NAME["llama"].inputs()
    expected = asked(copy.deepcopy(model), inputs)
    with swap(model, {"layers.0.ffn": Zero(32)}):
        model(**inputs)
        assert hooks(model) == 0
        other = copy.deepcopy(model)
        inside = asked(other, inputs)
        assert hooks(other) > 0
        assert hooks(model) == 0, "a copy has its own"
        assert len(inside.hidden_states) == 3
        with swap(other, {"layers.1": Zero(32)}):
            assert len(asked(other, inputs).hidden_states) == 3
            assert asked(other, inputs).attentions[1] is None
        assert len(model.model.forward(**inputs, output_hidden_states=True).hidden_states) == 3  # by no call
    after = asked(model, inputs)
    for what in ("hidden_states", "attentions"):
        assert all(torch.equal(a, b) for a, b in zip(after[what], expected[what], strict=True))


def test_opening_a_model_loses_no_weights() -> None:
    model, inputs = eager("albert"), BY_NAME["albert"].inputs()
    expected = asked(copy.deepcopy(model), inputs).attentions
    find_sites(model)
    assert len(expected) == 3
    assert all(torch.equal(a, b) for a, b in zip(asked(model, inputs).attentions, expected, strict=True))


def test_plain_attributes_of_a_block_and_of_its_parts_are_answered() -> None:
    """ModernBERT, Nemotron-H and Gemma 4 look at their blocks before they call them."""
    model = BY_NAME["llama"].model()
    for block in model.model.layers:
        block.block_type, block.stride, block.share = "full", 2, None
        block.self_attn.is_kv_shared_layer = False
    layer = model.model.layers[0]
    with swap(model, {"layers.0": Zero(32)}), swap(model, {"layers.0": Zero(32)}):
        stand_in = model.model.layers[0]
        assert stand_in is not layer
        assert (stand_in.block_type, stand_in.stride, stand_in.share) == ("full", 2, None)
        assert stand_in.self_attn.is_kv_shared_layer is False
        assert stand_in.self_attn.layer_idx == 0
        assert not hasattr(stand_in, "nonsense")
        assert not any("mlp" in name for name in stand_in.state_dict())
        copy.deepcopy(model)


def test_a_norm_without_a_weight_answers_for_its_dtype() -> None:
    config = tf.MambaConfig(vocab_size=96, hidden_size=32, num_hidden_layers=2, state_size=8)
    model = tf.MambaForCausalLM(config).eval().bfloat16()
    with swap(model, {"layers.0.attn_norm": Zero(32)}), torch.no_grad():
        assert model.backbone.layers[0].norm.weight.dtype == torch.bfloat16
        assert model(input_ids=torch.ones(1, 4, dtype=torch.long)).logits.isfinite().all()


@pytest.mark.parametrize("keep_names", [True, False])
def test_bloom_keeps_its_state_dict(keep_names: bool) -> None:
    from layersmith.anatomy.adapters import open_up

    torch.manual_seed(0)
    config = tf.BloomConfig(vocab_size=96, hidden_size=32, n_layer=2, n_head=4)
    closed = tf.BloomForCausalLM(config).eval()
    opened = copy.deepcopy(closed)
    assert open_up(opened, keep_names)
    assert not open_up(opened, keep_names)
    assert (list(opened.state_dict()) == list(closed.state_dict())) == keep_names
    ids = torch.arange(5, 15).view(2, 5)
    with torch.no_grad():
        assert torch.equal(opened(input_ids=ids).logits, closed(input_ids=ids).logits)
    if keep_names:
        other = tf.BloomForCausalLM(config).eval()
        open_up(other)
        other.load_state_dict(closed.state_dict())
        with torch.no_grad():
            assert torch.equal(other(input_ids=ids).logits, closed(input_ids=ids).logits)
