"""Learngene: every layer's weights written out, a slope of zero shares one layer, and stacks of other depths."""

import pytest
import torch

from layersmith import catalogue
from tests.block.small import LAYER, D, block, stacked, tokens


@pytest.mark.oracle("learngene")
@torch.no_grad()
def test_layers_have_expanded_weights():
    part, x = block("learngene", layer=LAYER, depth=3), tokens()
    layers = [block("series", **LAYER) for _ in range(3)]
    for index, layer in enumerate(layers):
        for name, parameter in layer.named_parameters():
            base = part.base.get_parameter(name)
            parameter.copy_(base + part.slope[name.replace(".", "/")] * (index / 3))
    torch.testing.assert_close(part(x)[0], stacked(layers, x))


@pytest.mark.oracle("learngene")
@torch.no_grad()
def test_no_slope_is_one_layer_shared():
    fresh, x = catalogue.build({"name": "learngene", "d_model": D, "layer": LAYER, "depth": 3}).double(), tokens()
    torch.testing.assert_close(fresh(x)[0], stacked(3 * [fresh.base], x))


@torch.no_grad()
def test_what_is_stored_does_not_depend_on_the_depth_and_grows_into_any():
    part, x = block("learngene", layer=LAYER, depth=3), tokens()
    for depth in (3, 5):
        grown = block("looped", layers=depth * [LAYER], times=1)
        for layer, weights in zip(grown.layers, part.grown(depth), strict=True):
            layer.load_state_dict(weights)
        again = block("learngene", layer=LAYER, depth=depth)
        again.load_state_dict(part.state_dict())
        torch.testing.assert_close(grown(x)[0], again(x)[0])
        assert again.cost().params == 2 * grown.cost().params // depth
        assert again.cost(1, 4).flops == grown.cost(1, 4).flops
