"""Toeplitz attention against the quadratic form in float64, and softmax attention with biases as its limit."""

import math

import pytest
import torch

from layersmith.mixer.toeplitz_attention import ToeplitzAttention


def phi(m, vector, head):
    """exp(w . x - |x|^2 / 2) / sqrt(F) of a vector made one long."""
    unit = vector / vector.norm()
    w = m.phi.source.frequencies[head]
    size = math.exp(-0.5) / math.sqrt(w.shape[1])
    return torch.tensor([math.exp(float(w[:, r] @ unit)) * size for r in range(w.shape[1])], dtype=vector.dtype)


def bias(m, head, lag):
    reach = m.max_distance - 1
    return float(m.distance_bias[head, max(-reach, min(lag, reach)) + (0 if m.causal else reach)])


def by_loops(m: ToeplitzAttention, x: torch.Tensor, score=None) -> torch.Tensor:
    """One pair of tokens at a time, for one sequence x (T, D); score(q, k, head) in place of the features' product."""
    d, group, tokens = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads, len(x)
    score = score or (lambda a, b, g: float(phi(m, a, g) @ phi(m, b, g)))
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(m.q.out_features // d):
        own, shared = slice(h * d, h * d + d), slice(h // group * d, h // group * d + d)
        for t in range(tokens):
            norm = 0.0
            for s in range(t + 1 if m.causal else tokens):
                weight = math.exp(bias(m, h, t - s)) * score(q[t, own], k[s, shared], h // group)
                norm += weight
                out[t, own] += weight * v[s, shared]
            out[t, own] /= norm
    return m.o(out)


@torch.no_grad()
def mixer(causal, **settings):
    torch.manual_seed(0)
    m = ToeplitzAttention(12, 4, n_kv_heads=2, causal=causal, max_distance=4, eps=0.0, **settings).double()
    m.distance_bias.normal_()
    return m


@pytest.mark.oracle("toeplitz_attention")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_equals_the_quadratic_form(causal, tokens):
    m = mixer(causal, features=5)
    x = torch.randn(2, tokens, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-11, rtol=0)


@pytest.mark.oracle("toeplitz_attention")
@torch.no_grad()
def test_approaches_softmax_attention_with_biases():
    """The error of 1024 times as many features is a good deal smaller, and small."""

    def exact(a, b, _):
        return math.exp(float(a @ b) / float(a.norm() * b.norm()))

    x = torch.randn(1, 8, 12, dtype=torch.float64)
    errors = []
    for features in (16, 16384):
        m = mixer(True, features=features)
        errors.append(float((m(x)[0][0] - by_loops(m, x[0], exact)).norm() / by_loops(m, x[0], exact).norm()))
    assert errors[1] < errors[0] / 3
    assert errors[1] < 0.02


def test_the_cache_holds_features_values_and_places():
    m = ToeplitzAttention(16, 4, n_kv_heads=2, features=6)
    assert m.state_bytes(10) == 10 * (2 * 6 * 4 + 2 * 4 * 4 + 8)


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="max_distance must be a positive integer"):
        ToeplitzAttention(16, 4, max_distance=0)
    with pytest.raises(ValueError, match="features must be a positive integer"):
        ToeplitzAttention(16, 4, features=0)
