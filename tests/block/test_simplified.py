"""Simplified block: its sum, what it is at the start, and that a deep stack of it still passes tokens on."""

import pytest
import torch

from layersmith import catalogue
from tests.block.small import FFN, NORM, D, block, tokens

MIXER = {"name": "simplified_attention", "n_heads": 2, "rope_theta": 100.0}
SOFTMAX = {**MIXER, "name": "softmax_attention"}


@pytest.mark.oracle("simplified")
@torch.no_grad()
def test_its_sum():
    layer, x = block("simplified", norm=NORM, mixer=MIXER, ffn=FFN), tokens()
    h = x / (x.square().mean(-1, keepdim=True) + layer.norm.eps).sqrt() * layer.norm.weight
    want = layer.mixed * layer.mixer(h)[0] + layer.fed * layer.ffn(h)
    torch.testing.assert_close(layer(x)[0], want)
    assert float(layer.fed) != 0.1


@pytest.mark.oracle("simplified")
@torch.no_grad()
def test_at_its_start_without_norms_it_is_a_residual_feed_forward():
    layer = catalogue.build({"name": "simplified", "d_model": D, "mixer": MIXER, "ffn": FFN, "feed": 0.25}).double()
    x = tokens()
    torch.testing.assert_close(layer(x)[0], x + 0.25 * layer.ffn(x))


def passed_on(mixer: dict, layers: int = 24) -> float:
    """How alike two tokens of a sequence are behind so many fresh layers: the mean cosine over all pairs."""
    torch.manual_seed(0)
    config = {"name": "simplified", "d_model": D, "mixer": mixer, "norm": NORM, "ffn": FFN, "feed": 0.1}
    x = tokens(12)
    for _ in range(layers):
        x = catalogue.build(config).double()(x)[0].detach()
    unit = torch.nn.functional.normalize(x, dim=-1)
    return float((unit @ unit.mT).mean())


@pytest.mark.oracle("simplified")
def test_without_skips_ordinary_attention_makes_tokens_equal_and_this_one_does_not():
    assert passed_on(MIXER) < 0.5
    assert passed_on(SOFTMAX) > 0.9
