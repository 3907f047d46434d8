"""The convolution in pieces is the convolution of the whole, and remembers real tokens only."""

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.shared.short_conv import depthwise, short_conv
from tests.mixer.by_steps import causal_filter, taps

SHAPES = [(4, 1), (3, 2), (1, 1), (5, 3)]  # taps, dilation


def made(size, dilation, tokens=23):
    torch.manual_seed(0)
    return depthwise(6, size, dilation, bias=True).double(), torch.randn(2, tokens, 6, dtype=torch.float64)


@torch.no_grad()
@pytest.mark.parametrize(("size", "dilation"), SHAPES)
def test_equals_torch_and_loops(size, dilation):
    conv, x = made(size, dilation)
    y, state = short_conv(conv, x, None, None)
    padded = F.pad(x.mT, ((size - 1) * dilation, 0))
    want = F.conv1d(padded, conv.weight, conv.bias, groups=6, dilation=dilation).mT
    torch.testing.assert_close(y, want, atol=1e-12, rtol=0)
    by_hand = [causal_filter(row.tolist(), *taps(conv), dilation) for row in x]
    torch.testing.assert_close(y, torch.tensor(by_hand, dtype=torch.float64), atol=1e-12, rtol=0)
    assert state.shape == (2, 6, (size - 1) * dilation)


@torch.no_grad()
@pytest.mark.parametrize(("size", "dilation"), SHAPES)
@pytest.mark.parametrize("sizes", [[1] * 23, [2, 1, 20], [11, 12]])
def test_in_pieces(size, dilation, sizes):
    conv, x = made(size, dilation)
    state, parts = None, []
    for part in x.split(sizes, dim=1):
        y, state = short_conv(conv, part, state, None)
        parts.append(y)
    torch.testing.assert_close(torch.cat(parts, 1), short_conv(conv, x, None, None)[0], atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("size", "dilation"), SHAPES)
@pytest.mark.parametrize("n_real", [[5, 0], [23, 1], [2, 22]])
def test_what_is_remembered_are_the_last_real_inputs(size, dilation, n_real):
    """After a row of which only the first n are real, the state is that of the n alone, whatever lies behind them."""
    conv, x = made(size, dilation)
    _, before = short_conv(conv, torch.randn_like(x), None, None)
    _, state = short_conv(conv, x, before, torch.tensor(n_real))
    for row, n in enumerate(n_real):
        only = slice(row, row + 1)
        want = short_conv(conv, x[only, :n], before[only], None)[1] if n else before[only]
        assert torch.equal(state[only], want)
