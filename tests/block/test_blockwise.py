"""Blockwise: outputs and gradients are those of a series block, whatever the stretch; nothing wide is held."""

import pytest
import torch

from layersmith import catalogue
from layersmith.errors import UserError
from tests.block.small import DELTA, FFN, LAYER, NORM, SOFTMAX, block, tokens

GROUPED = {"name": "softmax_attention", "n_heads": 4, "n_kv_heads": 2, "rope_theta": 100.0, "window": 5}
BOTH_WAYS = {"name": "softmax_attention", "n_heads": 2, "causal": False}


def pair(chunk: int, mixer=SOFTMAX):
    """A blockwise layer and the series layer with its weights, in training."""
    part = block("blockwise", **{**LAYER, "mixer": mixer}, chunk=chunk).train()
    plain = catalogue.build({"name": "series", "d_model": 8, **LAYER, "mixer": mixer}).double().train()
    plain.load_state_dict(part.state_dict())
    return part, plain


@pytest.mark.oracle("blockwise")
@pytest.mark.parametrize("mixer", [SOFTMAX, GROUPED, BOTH_WAYS], ids=["rope", "window", "both ways"])
@pytest.mark.parametrize("chunk", [1, 3, 5, 7, 100])
def test_outputs_and_gradients_are_those_of_a_series(chunk, mixer):
    part, plain = pair(chunk, mixer)
    x, weights = tokens(13).requires_grad_(), torch.randn(2, 13, 8, dtype=torch.float64)
    found = []
    for layer in (part, plain):
        y = layer(x)[0]
        gradients = torch.autograd.grad((y * weights).sum(), [x, *(p for _, p in sorted(layer.named_parameters()))])
        found.append([y, *gradients])
    for ours, want in zip(*found, strict=True):
        torch.testing.assert_close(ours, want, atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("mixer", [SOFTMAX, GROUPED, BOTH_WAYS], ids=["rope", "window", "both ways"])
def test_padding_anywhere(mixer):
    part, plain = pair(4, mixer)
    x, mask = tokens(11, 3), torch.ones(3, 11, dtype=torch.bool)
    mask[0, [0, 1, 5, 9]] = False
    mask[1, 3:] = False
    mask[2] = False
    y, want = part(x, mask=mask)[0], plain(x, mask=mask)[0]
    torch.testing.assert_close(y[mask], want[mask], atol=1e-12, rtol=0)
    assert torch.isfinite(y).all()


@torch.no_grad()
def test_it_goes_on_from_a_state():
    part, x = block("blockwise", **LAYER, chunk=4), tokens(12)
    y, state = part(x[:, :6])
    rest, _ = part(x[:, 6:], state)
    torch.testing.assert_close(torch.cat((y, rest), 1), part(x)[0], atol=1e-12, rtol=0)


def held(layer) -> int:
    """Numbers that autograd keeps of a forward, parameters apart."""
    own, kept = {p.untyped_storage().data_ptr() for p in layer.parameters()}, {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor  # alive, so that no other storage gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(tokens(24).requires_grad_())
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in own)


def test_what_is_held_does_not_grow_with_the_width_of_the_feed_forward():
    sizes = {}
    for name in ("blockwise", "series"):
        for wide in (16, 64):
            parts = {**LAYER, "ffn": {**FFN, "d_hidden": wide}}
            sizes[name, wide] = held(block(name, **parts).train())
    assert sizes["blockwise", 64] == sizes["blockwise", 16] < sizes["series", 16] < sizes["series", 64]


def test_work_is_less_by_the_pairs_ahead_of_a_stretch():
    one, four = (block("blockwise", **LAYER, chunk=chunk).cost(2, 16) for chunk in (16, 4))
    assert one.flops == block("series", **LAYER).cost(2, 16).flops
    assert one.flops - four.flops == 4 * 2 * 8 * (16 * 16 - 4 * (4 + 8 + 12 + 16))


def test_other_mixers_are_refused():
    with pytest.raises(UserError, match="softmax_attention"):
        block("blockwise", mixer=DELTA, ffn=FFN, norm=NORM)
    with pytest.raises(UserError, match="window"):
        block("blockwise", mixer={**BOTH_WAYS, "window": 3}, ffn=FFN)
