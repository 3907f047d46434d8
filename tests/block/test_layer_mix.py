"""Layer mix: the sums written out, weights that make it the plain stack, and where weights start."""

import math

import pytest
import torch

from layersmith.errors import UserError
from tests.block.small import LAYER, OTHER, block, stacked, tokens

LAYERS = [LAYER, OTHER, LAYER]


@pytest.mark.oracle("layer_mix")
@torch.no_grad()
@pytest.mark.parametrize("weights", ["softmax", "free"])
@pytest.mark.parametrize("mix_output", [False, True])
def test_sums_written_out(weights, mix_output):
    part, x = block("layer_mix", layers=LAYERS, weights=weights, mix_output=mix_output), tokens()
    written = [x]
    for n in range(len(LAYERS) + mix_output):
        w = [1.0] if n == 0 else part.w[n - 1].tolist()
        if weights == "softmax" and n:
            w = [math.exp(v) / sum(map(math.exp, w)) for v in w]
            assert sum(w) == pytest.approx(1)
        mixed = sum(share * output for share, output in zip(w, written, strict=True))
        written.append(part.layers[n](mixed)[0] if n < len(LAYERS) else mixed)
    torch.testing.assert_close(part(x)[0], written[-1])


@pytest.mark.oracle("layer_mix")
@torch.no_grad()
def test_all_weight_on_the_output_before_is_the_stack():
    x = tokens()
    free = block("layer_mix", layers=LAYERS, weights="free", mix_output=True)
    softmax = block("layer_mix", layers=LAYERS)
    for part, large in ((free, 1.0), (softmax, 100.0)):
        for w in part.w:
            w.copy_(torch.zeros_like(w))
            w[-1] = large
        torch.testing.assert_close(part(x)[0], stacked(part.layers, x))


def test_weights_start_as_said():
    from layersmith import catalogue

    def start(**config):
        part = catalogue.build({"name": "layer_mix", "d_model": 8, "layers": LAYERS, **config})
        return part.weights_of(2).tolist()

    rest = 1 / (2 + math.e)
    assert start() == pytest.approx([rest, rest, math.e * rest])
    assert start(weights="free") == [0, 0, 1]
    assert start(start="uniform") == pytest.approx([1 / 3] * 3)
    assert start(weights="free", start="uniform") == pytest.approx([1 / 3] * 3)


def test_it_costs_the_stack_and_its_weights():
    plain = block("looped", layers=LAYERS, times=1).cost(1, 5)
    mixed = block("layer_mix", layers=LAYERS, mix_output=True).cost(1, 5)
    assert mixed.params == plain.params + 2 + 3 + 4
    assert (mixed.flops, mixed.state_bytes) == (plain.flops, plain.state_bytes)
    with pytest.raises(UserError, match="weights='sum' is unknown"):
        block("layer_mix", layers=LAYERS, weights="sum")
