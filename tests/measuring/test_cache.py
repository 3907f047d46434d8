import torch
from transformers import DynamicCache

from layersmith.measuring.cache import cache_bytes, rewinder, share_tensors


def _filled(tokens: int) -> DynamicCache:
    cache = DynamicCache()
    for layer in range(2):
        cache.update(torch.randn(1, 2, tokens, 8), torch.randn(1, 2, tokens, 8), layer)
    return cache


def test_bytes_are_those_of_keys_and_values() -> None:
    assert cache_bytes(_filled(5)) == 2 * 2 * (1 * 2 * 5 * 8) * 4


def test_a_tensor_reached_twice_counts_once() -> None:
    shared = torch.zeros(10)
    assert cache_bytes({"a": shared, "b": [shared]}) == 40
    assert cache_bytes(None) == 0


def test_rewind_brings_back_contents_new_layers_and_states() -> None:
    cache = _filled(5)
    before = [layer.keys for layer in cache.layers]
    state = {"seen": 1, "deep": {"list": [torch.zeros(1)]}}
    rewind = rewinder(cache, state)

    for layer in range(3):  # layer 2 did not exist
        cache.update(torch.randn(1, 2, 1, 8), torch.randn(1, 2, 1, 8), layer)
    state["seen"] = 2
    state["deep"]["list"].append(torch.ones(1))
    assert cache.get_seq_length() == 6

    rewind()
    assert cache.get_seq_length() == 5
    assert len(cache.layers) == 2
    assert all(layer.keys is keys for layer, keys in zip(cache.layers, before, strict=True))
    assert state["seen"] == 1
    assert len(state["deep"]["list"]) == 1


def test_caches_of_variants_share_what_is_alike() -> None:
    ours, theirs = _filled(5), _filled(5)
    ours.layers[1].keys = torch.zeros(1, 1, 5, 8)  # another shape stays
    kept = ours.layers[1].keys
    share_tensors(ours, theirs)
    assert ours.layers[0].keys is theirs.layers[0].keys
    assert ours.layers[1].values is theirs.layers[1].values
    assert ours.layers[1].keys is kept
    assert ours.layers[0] is not theirs.layers[0]
