"""Momentum attention by loops, before and after RoPE; without momentum it is softmax attention."""

import math

import pytest
import torch

from layersmith.mixer.momentum_attention import MomentumAttention
from layersmith.mixer.shared.rope import rotary_table, rotate
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, close, inputs, part, softmax


def carried_on(x, gamma):
    """x_t + gamma (x_t - x_{t-1}) along the second last dimension, the first as it is."""
    out = x.clone()
    for t in range(1, x.shape[-2]):
        out[..., t, :] += gamma * (x[..., t, :] - x[..., t - 1, :])
    return out


@torch.no_grad()
@pytest.mark.oracle("momentum_attention")
@pytest.mark.parametrize(
    "config",
    [
        {"bias": True},
        {"causal": False, "gamma": 0.8},
        {"rope_theta": 100.0, "n_kv_heads": 1},
        {"rope_theta": 100.0, "after_rope": True, "bias": True},
    ],
)
def test_equals_loops(config):
    m, x = part("momentum_attention", **config), inputs()
    group = 2 // m.n_kv_heads
    gamma, after = config.get("gamma", 0.5), config.get("after_rope", False)
    q, k, v = (linear(x).unflatten(-1, (-1, 8)).transpose(1, 2) for linear in (m.q, m.k, m.v))
    if not after:
        q, k = carried_on(q, gamma), carried_on(k, gamma)
    if "rope_theta" in config:
        table = rotary_table(torch.arange(7)[None], 8, 100.0, torch.float64)
        q, k = rotate(q, table), rotate(k, table)
    if after:
        q, k = carried_on(q, gamma), carried_on(k, gamma)
    out = torch.zeros(2, 7, D, dtype=torch.float64)
    for b in range(2):
        for h in range(2):
            for t in range(7):
                seen = range(t + 1 if m.causal else 7)
                weights = softmax([float(q[b, h, t] @ k[b, h // group, s]) / math.sqrt(8) for s in seen])
                for s, weight in zip(seen, weights, strict=True):
                    out[b, t, h * 8 : h * 8 + 8] += weight * v[b, h // group, s]
    close(m(x)[0], m.o(out))


@torch.no_grad()
@pytest.mark.oracle("momentum_attention")
@pytest.mark.parametrize("config", [{"n_kv_heads": 1, "rope_theta": 100.0, "scale": 0.4}, {"causal": False}])
def test_without_momentum_it_is_softmax_attention(config):
    plain = SoftmaxAttention(D, 2, **config).double()
    m = MomentumAttention(D, 2, gamma=0.0, **config).double()
    m.load_state_dict(plain.state_dict())
    x = inputs(9)
    close(m(x)[0], plain(x)[0])


@torch.no_grad()
@pytest.mark.oracle("momentum_attention")
def test_one_layer_finds_what_came_after_the_last_occurrence():
    """k'_t holds -gamma k_{t-1}, which a query of the negative token meets; so is the token just before."""
    m = MomentumAttention(8, 1, gamma=1.0, scale=30.0).double()
    eye = torch.eye(8, dtype=torch.float64)
    for linear in (m.k, m.v, m.o):
        linear.weight.copy_(eye)
    m.q.weight.copy_(-eye)
    text = [3, 5, 0, 6, 1, 3]  # after 3 came 5, and just before it 1
    close(m(eye[text][None])[0][0, -1], (eye[5] + eye[1]) / 2)
    m.gamma = 0.0
    close(m(eye[text][None])[0][0, -1], eye[[5, 0, 6, 1]].mean(0))


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="after_rope needs rope_theta"):
        MomentumAttention(D, 2, after_rope=True)
