"""The two layers of ETSformer: smoothing against its recurrence, frequencies against sums of sinusoids."""

import math

import pytest
import torch

from layersmith.mixer.exponential_smoothing import ExponentialSmoothing
from layersmith.mixer.frequency_attention import FrequencyAttention


def smoothed_by_loops(m: ExponentialSmoothing, x: torch.Tensor) -> torch.Tensor:
    """The recurrence, one token and head at a time, for one sequence x (T, D)."""
    z, d = m.v(x), m.head_dim
    out = torch.zeros_like(z)
    for h, logit in enumerate(m.rate.tolist()):
        alpha, own = 1 / (1 + math.exp(-logit)), slice(h * d, h * d + d)
        g = m.g0[h, 0]
        before = m.z0[h, 0] if m.differences else 0.0
        for t in range(len(x)):
            g = alpha * (z[t, own] - before) + (1 - alpha) * g
            out[t, own] = g
            before = z[t, own] if m.differences else 0.0
    return m.o(out)


@pytest.mark.oracle("exponential_smoothing")
@torch.no_grad()
@pytest.mark.parametrize("differences", [True, False])
def test_equals_the_recurrence(differences):
    torch.manual_seed(0)
    m = ExponentialSmoothing(8, 2, differences=differences, chunk=4).double()
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    want = torch.stack([smoothed_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-13, rtol=0)


@pytest.mark.oracle("exponential_smoothing")
@torch.no_grad()
def test_equals_the_convolution_of_the_paper():
    """alpha (1 - alpha)^j convolved with the differences by a Fourier transform, and (1 - alpha)^t of the start."""
    torch.manual_seed(0)
    m = ExponentialSmoothing(6, 1).double()
    x, tokens = torch.randn(1, 50, 6, dtype=torch.float64), 50
    z = m.v(x)[0]
    change = torch.diff(torch.cat((m.z0[0], z)), dim=0)
    alpha, age = m.rate.sigmoid(), torch.arange(tokens)[:, None]
    spectrum = torch.fft.rfft(change, 2 * tokens, 0) * torch.fft.rfft(alpha * (1 - alpha) ** age, 2 * tokens, 0)
    g = torch.fft.irfft(spectrum, 2 * tokens, 0)[:tokens] + (1 - alpha) ** (age + 1) * m.g0[0]
    torch.testing.assert_close(m(x)[0][0], m.o(g), atol=1e-12, rtol=0)


@torch.no_grad()
def test_at_rate_one_it_is_the_difference_itself():
    torch.manual_seed(0)
    m = ExponentialSmoothing(8, 2).double()
    m.rate.fill_(60.0)
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0][:, 1:], m.o(m.v(x).diff(dim=1)), atol=1e-12, rtol=0)


def test_the_state_is_two_rows_for_each_head():
    assert ExponentialSmoothing(8, 2).state_bytes(10) == ExponentialSmoothing(8, 2).state_bytes(1000) == 2 * 8 * 4


def sinusoids(tokens, ahead=0):
    """Three waves of other frequency, size and phase in each channel, around a mean that is not 0."""
    t = torch.arange(tokens + ahead, dtype=torch.float64)[:, None]
    channels = torch.arange(4, dtype=torch.float64)
    waves = [(3 - i) * torch.cos(2 * math.pi * (2 * i + 1 + channels) * t / tokens + i + channels) for i in range(3)]
    return sum(waves)[None]


@pytest.mark.oracle("frequency_attention")
@pytest.mark.parametrize("tokens", [24, 25])
def test_a_sum_of_sinusoids_is_given_back_and_continued(tokens):
    m = FrequencyAttention(4, k=3).double()
    x = sinusoids(tokens)
    torch.testing.assert_close(m(x + 5.0)[0], x, atol=1e-12, rtol=0)
    torch.testing.assert_close(m.extended(x + 5.0, 10), sinusoids(tokens, 10), atol=1e-12, rtol=0)


@pytest.mark.oracle("frequency_attention")
@pytest.mark.parametrize("tokens", [2, 7, 8])
def test_keeps_the_strongest_by_the_definition(tokens):
    torch.manual_seed(0)
    x = torch.randn(1, tokens, 2, dtype=torch.float64)
    want = torch.zeros_like(x)
    for c in range(2):
        waves = []
        for j in range(1, (tokens + 1) // 2):
            re = sum(float(x[0, t, c]) * math.cos(2 * math.pi * j * t / tokens) for t in range(tokens))
            im = -sum(float(x[0, t, c]) * math.sin(2 * math.pi * j * t / tokens) for t in range(tokens))
            waves.append((math.hypot(re, im), math.atan2(im, re), j))
        for size, phase, j in sorted(waves, reverse=True)[:2]:
            for t in range(tokens):
                want[0, t, c] += 2 * size / tokens * math.cos(2 * math.pi * j * t / tokens + phase)
    torch.testing.assert_close(FrequencyAttention(2, k=2).double()(x)[0], want, atol=1e-12, rtol=0)


def test_a_state_is_refused():
    with pytest.raises(ValueError, match="is not causal here"):
        FrequencyAttention(4)(torch.zeros(1, 3, 4), state={})
