"""Gaussian-mask attention by loops, in a text and on a grid; infinitely wide it is softmax attention."""

import math

import pytest
import torch

from layersmith.mixer.gaussian_mask import GaussianMaskAttention
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, by_loops, close, inputs, part, softmax


@torch.no_grad()
@pytest.mark.oracle("gaussian_mask")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "kernels": 1}, {"causal": False, "grid": 3}])
def test_equals_loops(config):
    m, x = part("gaussian_mask", **config), inputs(8)
    m.sigma.uniform_(0.5, 3)

    def row(scores, t, seen, head):
        masked = []
        for score, s in zip(scores, seen, strict=True):
            squared = (t - s) ** 2 if m.grid is None else (t // 3 - s // 3) ** 2 + (t % 3 - s % 3) ** 2
            kernels = zip(m.alpha[head].tolist(), m.sigma[head].tolist(), strict=True)
            masked.append(score * sum(a * math.exp(-squared / (2 * (w * w + 1e-5))) for a, w in kernels))
        return softmax(masked)

    close(m(x)[0], by_loops(m, x, row))


@torch.no_grad()
@pytest.mark.oracle("gaussian_mask")
@pytest.mark.parametrize("config", [{"n_kv_heads": 1, "rope_theta": 100.0, "scale": 0.5}, {"causal": False}])
def test_infinitely_wide_it_is_softmax_attention(config):
    plain = SoftmaxAttention(D, 2, **config).double()
    m = GaussianMaskAttention(D, 2, kernels=1, **config).double()
    m.load_state_dict(plain.state_dict() | {"alpha": torch.ones(2, 1), "sigma": torch.full((2, 1), 1e8)})
    x = inputs(9)
    close(m(x)[0], plain(x)[0], 1e-9)


def test_two_numbers_per_kernel_and_head_are_added():
    added = GaussianMaskAttention(D, 2).cost().params - SoftmaxAttention(D, 2).cost().params
    assert added == 2 * 3 * 2


@pytest.mark.parametrize("config", [{"kernels": 0}, {"grid": 0}])
def test_bad_settings_are_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        GaussianMaskAttention(D, 2, **config)
