"""Shortened attention: plain attention at ratio 1, scipy's transforms below, and a constant that keeps its value."""

import numpy as np
import pytest
import torch
from scipy.fft import dct, idct

from layersmith.mixer.shortened_attention import ShortenedAttention
from layersmith.mixer.softmax import SoftmaxAttention


def pair(ratio):
    torch.manual_seed(0)
    m = ShortenedAttention(8, 4, n_kv_heads=2, ratio=ratio, bias=True, out_bias=True).double()
    plain = SoftmaxAttention(8, 4, n_kv_heads=2, causal=False, bias=True, out_bias=True).double()
    plain.load_state_dict(m.state_dict())
    return m, plain


@pytest.mark.oracle("shortened_attention")
@torch.no_grad()
def test_all_frequencies_are_plain_attention():
    (m, plain), x = pair(1.0), torch.randn(2, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], plain(x)[0], atol=1e-12, rtol=0)


@pytest.mark.oracle("shortened_attention")
@torch.no_grad()
@pytest.mark.parametrize(("tokens", "short"), [(8, 4), (9, 5), (1, 1)])
def test_resampling_against_scipy(tokens, short):
    (m, plain), x = pair(0.5), torch.randn(1, tokens, 8, dtype=torch.float64)
    spectrum = dct(x[0].numpy(), norm="ortho", axis=0)[:short]
    shorter = torch.from_numpy(idct(spectrum, norm="ortho", axis=0) * (short / tokens) ** 0.5)
    y = plain(shorter[None])[0][0].numpy()
    padded = np.zeros((tokens, 8))
    padded[:short] = dct(y, norm="ortho", axis=0)
    want = idct(padded, norm="ortho", axis=0) * (tokens / short) ** 0.5
    np.testing.assert_allclose(m(x)[0][0].numpy(), want, atol=1e-12)


@torch.no_grad()
def test_a_constant_keeps_its_value():
    m, plain = pair(0.25)
    x = torch.randn(1, 1, 8, dtype=torch.float64).expand(1, 16, 8)
    torch.testing.assert_close(m(x)[0], plain(x)[0], atol=1e-12, rtol=0)


@torch.no_grad()
def test_mixed_lengths_and_rows_of_padding():
    m, x = pair(0.3)[0], torch.randn(3, 11, 8, dtype=torch.float64)
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[1, [0, 4, 10]] = False
    mask[2] = False
    y = m(torch.where(mask[..., None], x, 1e3), mask=mask)[0]
    assert y.isfinite().all()
    for row in range(2):
        torch.testing.assert_close(y[row, mask[row]], m(x[row : row + 1, mask[row]])[0][0], atol=1e-11, rtol=0)


@pytest.mark.parametrize("ratio", [0.0, 1.5, float("nan")])
def test_a_ratio_that_keeps_nothing_is_refused(ratio):
    with pytest.raises(ValueError, match="ratio"):
        ShortenedAttention(8, 2, ratio=ratio)
