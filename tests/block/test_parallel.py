"""Parallel: its sum written out, and how far it is from the same parts in series."""

import pytest
import torch

from tests.block.small import FFN, LAYER, NORM, SOFTMAX, block, tokens


@pytest.mark.oracle("parallel")
@torch.no_grad()
def test_both_read_the_same_stream():
    layer, x = block("parallel", norm=NORM, mixer=SOFTMAX, ffn=FFN), tokens()
    h = x / (x.square().mean(-1, keepdim=True) + layer.norm.eps).sqrt() * layer.norm.weight
    want = x + layer.mixer(h)[0] + layer.ffn(h)
    torch.testing.assert_close(layer(x)[0], want)


@pytest.mark.oracle("parallel")
@torch.no_grad()
def test_it_is_the_series_to_first_order_in_the_mixers_output():
    """The gap shrinks like the mixer's output; with a silent mixer, or with a silent feed-forward, there is none."""
    parallel, series, x = block("parallel", norm=NORM, mixer=SOFTMAX, ffn=FFN), block("series", **LAYER), tokens()
    series.load_state_dict({**parallel.state_dict(), "ffn_norm.weight": parallel.norm.weight})
    gaps = []
    for _ in range(3):
        gaps.append((parallel(x)[0] - series(x)[0]).abs().max().item())
        for layer in (parallel, series):
            layer.mixer.o.weight.mul_(0.01)
    assert gaps[0] > 1e-3
    assert gaps[1] < 0.02 * gaps[0]
    assert gaps[2] < 0.02 * gaps[1]
    for layer in (parallel, series):
        layer.mixer.o.weight.mul_(1e6)
        layer.ffn.down.weight.zero_()
    torch.testing.assert_close(parallel(x)[0], series(x)[0])
