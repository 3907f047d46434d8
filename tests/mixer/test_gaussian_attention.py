"""Gaussian attention by loops; normalised, with keys of one length, it is softmax attention."""

import math

import pytest
import torch

from layersmith.mixer.gaussian_attention import GaussianAttention
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, by_loops, close, inputs, part


def factorised(q, k):
    """exp(-|q|^2 / 2) exp(q . k) exp(-|k|^2 / 2)"""
    return math.exp(-float(q @ q) / 2) * math.exp(float(q @ k)) * math.exp(-float(k @ k) / 2)


@torch.no_grad()
@pytest.mark.oracle("gaussian_attention")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "normalize": True}, {"causal": False, "bias": True}])
def test_equals_loops(config):
    m, x = part("gaussian_attention", **config), inputs()

    def row(kernel, t, seen, head):
        return [w / sum(kernel) for w in kernel] if config.get("normalize") else kernel

    close(m(x)[0], by_loops(m, x, row, factorised))


@torch.no_grad()
@pytest.mark.oracle("gaussian_attention")
def test_with_keys_of_one_length_it_is_softmax_attention():
    config = {"n_kv_heads": 1, "rope_theta": 100.0, "qk_norm": True, "qk_norm_eps": 1e-300, "scale": 0.3}
    plain = SoftmaxAttention(D, 2, **config).double()
    m = GaussianAttention(D, 2, normalize=True, **config).double()
    m.load_state_dict(plain.state_dict())
    x = inputs(9)
    close(m(x)[0], plain(x)[0])


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="scale"):
        GaussianAttention(D, 2, scale=-1.0)
