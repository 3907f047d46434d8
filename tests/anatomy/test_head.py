"""The map to logits as a site: only where there is a linear one, and told apart from the embedding it may share."""

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from layersmith.anatomy import find_sites
from layersmith.anatomy.head import is_tied, with_head
from tests.architectures.every import SWEPT


def llama(tied):
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "tie_word_embeddings": tied}
    return LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_the_head_is_the_last_site_and_knows_whether_its_matrix_is_shared(tied):
    model = llama(tied)
    anatomy = find_sites(model)
    found = with_head(model, anatomy)
    *others, head = found.sites
    assert tuple(others) == anatomy.sites
    assert (head.name, head.kind, head.modules, head.d_model) == ("head", "head", ("lm_head",), 32)
    assert found.select("head") == [head]
    assert head in found.smallest()
    assert is_tied(model, head) is tied


def test_a_model_without_logits_has_no_head():
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    torch.manual_seed(0)
    model = BertModel(BertConfig(**sizes, num_attention_heads=4)).eval()
    anatomy = find_sites(model)
    assert with_head(model, anatomy) == anatomy


def test_a_head_that_the_model_never_calls_is_none():
    """MobileBERT multiplies by the weight of its head and another's, joined."""
    model = SWEPT["mobilebert"].model()
    assert isinstance(model.get_output_embeddings(), torch.nn.Linear)
    anatomy = find_sites(model)
    assert with_head(model, anatomy) == anatomy
    assert not model.get_output_embeddings()._forward_pre_hooks
