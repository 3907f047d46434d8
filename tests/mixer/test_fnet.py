"""FNet against the sums of its definition and against transformers'."""

import cmath

import pytest
import torch

from layersmith.mixer.fnet import FNet


def by_loops(x):
    """One sequence (T, D)."""
    tokens, width = x.shape
    out = torch.zeros_like(x)
    for k in range(tokens):
        for j in range(width):
            total = 0j
            for t in range(tokens):
                for c in range(width):
                    total += float(x[t, c]) * cmath.exp(-2j * cmath.pi * (k * t / tokens + j * c / width))
            out[k, j] = total.real
    return out


@pytest.mark.oracle("fnet")
def test_by_loops_with_and_without_padding():
    x = torch.randn(2, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FNet(3)(x)[0], torch.stack([by_loops(row) for row in x]), atol=1e-11, rtol=0)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0, [0, 3]] = False
    y = FNet(3)(x, mask=mask)[0]
    torch.testing.assert_close(y[0, mask[0]], by_loops(x[0, mask[0]]), atol=1e-11, rtol=0)
    torch.testing.assert_close(y[1], by_loops(x[1]), atol=1e-11, rtol=0)


@pytest.mark.official("fnet")
def test_equals_transformers():
    from transformers import FNetConfig
    from transformers.models.fnet.modeling_fnet import FNetBasicFourierTransform

    theirs = FNetBasicFourierTransform(FNetConfig(hidden_size=8))
    x = torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(FNet(8)(x)[0], theirs(x)[0])
