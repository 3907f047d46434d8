"""The cache layer of a replaced sublayer, method by method."""

import copy

import pytest
import torch
from transformers import DynamicCache, LlamaConfig, MistralConfig, StaticCache

from layersmith.anatomy.cache import PastCall, StateLayer, state_layer
from layersmith.errors import UserError
from layersmith.mixer.deltanet import DeltaNet
from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.softmax import SoftmaxAttention


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
    layer.crop(-5)  # to before the first token, where there was no state
    assert layer.state is None
    assert layer.get_seq_length() == 0


def test_keys_and_values_are_cropped_and_layers_that_cannot_be_are_named():
    cache = DynamicCache()
    for index, (kind, state) in enumerate(
        [
            (SoftmaxAttention, {"k": torch.arange(5.0).view(1, 1, 5, 1), "v": torch.zeros(1, 1, 5, 1)}),
            (DeltaNet, {"S": torch.zeros(1, 1, 2, 2)}),
            (None, None),
            (LinearAttention, {"kv": torch.zeros(1, 1, 2, 2)}),
        ]
    ):
        state_layer(cache, index).advance(5, state, kind)
    assert [layer.is_croppable for layer in cache.layers] == [True, False, True, False]
    assert not cache.is_croppable
    for each in (cache, copy.deepcopy(cache)):
        with pytest.raises(UserError, match=r"layers 1, 3 \(DeltaNet, LinearAttention\)"):
            each.crop(-2)
    cropped = cache.layers[0]
    assert cropped.state["k"].flatten().tolist() == [0, 1, 2]
    assert cropped.get_seq_length() == 3


def test_where_the_cache_records_the_past_calls_are_read_again():
    cache = DynamicCache(config=MistralConfig(num_hidden_layers=2, sliding_window=4))
    cache.activate_past_recording()
    layer = state_layer(cache, 1)
    assert layer.records
    assert not StateLayer().records
    for tokens in (5, 2, 1):  # a sum of as many ones
        before = 0 if layer.state is None else layer.state["s"]
        layer.past.append(PastCall(tokens, lambda kept, before=before: {"s": before + torch.full((1, 1), kept)}))
        layer.advance(tokens, {"s": before + torch.full((1, 1), tokens)}, DeltaNet)
    assert layer.is_croppable
    layer.crop(-2)  # the last call, and one token of that before
    assert layer.state["s"].item() == layer.get_seq_length() == 6
    with pytest.raises(UserError, match="rolled back"):
        layer.crop(-1)  # what was before is settled
    layer.past.append(PastCall(1, lambda kept: {"s": torch.zeros(1, 1)}))
    layer.reorder_cache(torch.tensor([0]))
    assert not layer.is_croppable


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
