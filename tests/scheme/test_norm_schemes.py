"""NormPlace and SubLN: the layers they leave are their equations, with the initial weights they ask for."""

import math

import pytest
import torch

from layersmith.norm.layer_norm import LayerNorm
from layersmith.scheme.norm_place import NormPlace
from layersmith.scheme.shared.edits import attention_maps, ffn_maps
from layersmith.scheme.shared.flow import plain_model
from layersmith.scheme.sub_ln import SubLN


def after(scheme, width=64, depth=4):
    torch.manual_seed(0)
    model = plain_model(depth, {}, d_model=width)
    scheme.apply(model)
    return model


@torch.no_grad()
@pytest.mark.oracle("norm_place")
def test_the_places_of_the_norms():
    for place in ("post", "pre", "post"):
        model = after(NormPlace(place)).double()
        layer, x = model.layers[1], torch.randn(1, 5, 64, dtype=torch.double)
        layer.norm.weight.mul_(2)
        if place == "post":
            h = layer.norm(x + layer.mixer(x)[0])
            expected = layer.ffn_norm(h + layer.ffn(h))
            assert isinstance(model.final_norm, torch.nn.Identity)
        else:
            h = x + layer.mixer(layer.norm(x))[0]
            expected = h + layer.ffn(layer.ffn_norm(h))
            assert isinstance(model.final_norm, LayerNorm)
        torch.testing.assert_close(layer(x, None, None)[0], expected)
        assert model.config.norm_position == place


@pytest.mark.oracle("norm_place")
def test_weights_are_xaviers():
    model = after(NormPlace("pre"))
    for linear in (attention_maps(model, 2) | ffn_maps(model, 2)).values():
        expected = 2 / (linear.in_features + linear.out_features)
        assert linear.weight.var().item() == pytest.approx(expected, rel=0.06)


@torch.no_grad()
@pytest.mark.oracle("sub_ln")
def test_sub_ln_has_a_second_norm_before_each_output_map():
    model = after(SubLN()).double()
    layer, x = model.layers[0], torch.randn(1, 5, 64, dtype=torch.double)
    inner = {"o": layer.mixer.o, "down": layer.ffn.down}
    heads = []
    inner["o"].norm.register_forward_pre_hook(lambda module, args: heads.append(args[0]))
    y, _ = layer.mixer(layer.norm(x))
    torch.testing.assert_close(y, inner["o"].linear(torch.nn.functional.layer_norm(heads[0], (64,))))
    h = x + y
    hidden = torch.relu(layer.ffn.up(layer.ffn_norm(h)))
    expected = h + inner["down"].linear(torch.nn.functional.layer_norm(hidden, (256,)))
    torch.testing.assert_close(layer(x, None, None)[0], expected)
    assert sum(isinstance(m, LayerNorm) for m in layer.modules()) == 4
    assert sum(isinstance(m, LayerNorm) for m in model.modules()) == 4 * 4 + 1


@pytest.mark.oracle("sub_ln")
def test_sub_ln_scales_xaviers_weights_with_depth():
    model = after(SubLN(), depth=10)
    for name, linear in (attention_maps(model, 3) | ffn_maps(model, 3)).items():
        gain = 1 if name in "qk" else math.log(20)
        expected = gain * 2 / (linear.in_features + linear.out_features)
        assert linear.weight.var().item() == pytest.approx(expected, rel=0.06), name


def test_sub_ln_twice_adds_its_norms_once():
    model = after(SubLN())
    names = list(model.state_dict())
    SubLN().apply(model)
    assert list(model.state_dict()) == names
