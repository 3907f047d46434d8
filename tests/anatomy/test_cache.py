"""The cache layer of a replaced sublayer, method by method."""

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, StaticCache

from layersmith.anatomy.cache import StateLayer, state_layer
from layersmith.errors import UserError


def filled():
    layer = StateLayer()
    layer.advance(5, {"s": torch.arange(6.0).view(3, 2)})
    return layer


def test_counts_and_sizes():
    layer = filled()
    assert layer.get_seq_length() == 5
    assert layer.get_mask_sizes(2) == (7, 0)
    layer.reset()
    assert layer.get_seq_length() == 0
    assert layer.state is None


def test_beams_select_and_repeat_sequences():
    layer = filled()
    layer.reorder_cache(torch.tensor([2, 2, 0]))
    assert layer.state["s"].tolist() == [[4, 5], [4, 5], [0, 1]]
    layer.batch_select_indices(torch.tensor([2]))
    layer.batch_repeat_interleave(2)
    assert layer.state["s"].tolist() == [[0, 1], [0, 1]]


def test_crop_works_without_a_state_and_refuses_with_one():
    empty = StateLayer()
    empty.advance(5, None)
    empty.crop(-2)
    assert empty.get_seq_length() == 3
    empty.crop(1)  # older transformers: the length to keep
    assert empty.get_seq_length() == 1
    layer = filled()
    layer.crop(0)
    assert not layer.is_croppable
    with pytest.raises(UserError, match="rolled back"):
        layer.crop(-1)


def test_a_static_cache_is_refused():
    cache = StaticCache(LlamaConfig(num_hidden_layers=2), max_cache_len=16)
    with pytest.raises(UserError, match="cache_implementation='dynamic'"):
        state_layer(cache, 0)


def test_a_cache_of_another_model_is_refused():
    cache = DynamicCache()
    cache.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    with pytest.raises(UserError, match="another model"):
        state_layer(cache, 0)
    with pytest.raises(UserError, match="no keys and values"):
        state_layer(cache, 2).update(torch.zeros(1), torch.zeros(1))
    assert len(cache.layers) == 3
