"""A replaced head whose matrix was the embedding's: saved and loaded; in another number format tied to nothing."""

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from layersmith import checkpoint
from layersmith.anatomy.edit import Edit, apply
from layersmith.linear.half_precision import HalfPrecision
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.one_row import OneRow


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("part", [Int8Dynamic, HalfPrecision])
def test_a_replaced_head_comes_back_and_the_embedding_stays(part, tied, tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=tied)).eval()
    embedding = copy.deepcopy(model.get_input_embeddings().weight)
    head = part.from_weight(model.lm_head.weight)
    edit = Edit("lm_head", head.spec(), {})
    apply(model, [(edit, head)])
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        checkpoint.save(model, [edit], tmp_path / "a")
        for place, again in (("a", "b"), ("b", "c")):  # what was loaded is saved as well as what was made
            loaded, _ = checkpoint.load(str(tmp_path / place))
            assert torch.equal(loaded.eval()(input_ids=ids).logits, expected)
            assert torch.equal(loaded.get_input_embeddings().weight, embedding)
            loaded.tie_weights()
            assert torch.equal(loaded(input_ids=ids).logits, expected)
            assert not any(name.endswith("lm_head.weight") for name in loaded.state_dict())
            checkpoint.save(loaded, [], tmp_path / again)


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_with_the_same_matrix_stays_tied_to_the_embedding(tied, tmp_path):
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, tie_word_embeddings=tied)).eval()
    before, head = model.lm_head.weight, OneRow.from_weight(model.lm_head.weight)
    other = OneRow.from_weight(model.lm_head.weight + 1)
    apply(model, [(Edit("lm_head", other.spec(), {}), other)])
    assert model.lm_head.weight is not model.get_input_embeddings().weight
    model.lm_head.weight = before
    apply(model, [(Edit("lm_head", head.spec(), {}), head)])
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        model.get_input_embeddings().weight.add_(0.1)  # as healing does
        expected = model(input_ids=ids).logits
    checkpoint.save(model, [Edit("lm_head", head.spec(), {})], tmp_path / "a")
    loaded, _ = checkpoint.load(str(tmp_path / "a"))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(input_ids=ids).logits, expected)
    base = getattr(loaded, "base", loaded)
    assert (base.lm_head.weight is base.get_input_embeddings().weight) == tied
