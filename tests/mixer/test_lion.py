"""LION's recurrences against the full matrix in float64, for every decay, and its limits."""

import math

import pytest
import torch

from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.lion import Lion


def by_loops(m: Lion, x: torch.Tensor) -> torch.Tensor:
    """Every pair of tokens with the product of the decays that belong to it, for one sequence x (T, D)."""
    d, group, tokens = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads, len(x)
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(m.q.out_features // d):
        own, shared = slice(h * d, h * d + d), slice(h // group * d, h // group * d + d)
        for t in range(tokens):
            norm = m.eps
            for s in range(tokens):
                decays = [decay(m, x, r, h // group) for r in (range(s, t) if s < t else range(t + 1, s + 1))]
                weight = math.prod(decays) * float(unit_silu(q[t, own]) @ unit_silu(k[s, shared]))
                norm += weight
                out[t, own] += weight * v[s, shared]
            out[t, own] /= norm
    return m.o(out)


def unit_silu(vector):
    entries = [e / (1 + math.exp(-e)) + 0.5 for e in vector.tolist()]
    return torch.tensor(entries, dtype=vector.dtype) / math.sqrt(sum(e * e for e in entries))


def decay(m, x, token, head):
    if m.rate is None and m.rates is None:
        return 1.0
    logit = m.rates.weight[head] @ x[token] + m.rates.bias[head] if m.rate is None else m.rate[head]
    return 1 / (1 + math.exp(-float(logit)))


@pytest.mark.oracle("lion")
@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 4, 64])
@pytest.mark.parametrize("kind", ["none", "fixed", "selective"])
def test_equals_the_full_matrix(kind, chunk):
    torch.manual_seed(0)
    m = Lion(12, 4, n_kv_heads=2, decay=kind, chunk=chunk).double()
    if kind == "selective":
        m.rates.bias.zero_()
        m.rates.weight.mul_(3)
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("lion")
@torch.no_grad()
def test_without_decay_it_is_linear_attention_over_the_whole_sequence():
    torch.manual_seed(0)
    m = Lion(16, 4, n_kv_heads=2, decay="none", feature_map="hedgehog", rope_theta=100.0)
    linear = LinearAttention(16, 4, n_kv_heads=2, causal=False, feature_map="hedgehog", rope_theta=100.0)
    linear.load_state_dict(m.state_dict())
    x = torch.randn(2, 70, 16)
    torch.testing.assert_close(m(x)[0], linear(x)[0], atol=1e-5, rtol=0)


@pytest.mark.oracle("lion")
@torch.no_grad()
def test_read_backwards_everything_is_mirrored():
    torch.manual_seed(0)
    m = Lion(12, 2).double()
    x = torch.randn(1, 20, 12, dtype=torch.float64)
    torch.testing.assert_close(m(x.flip(1))[0].flip(1), m(x)[0], atol=1e-12, rtol=0)


def test_a_state_is_refused():
    m = Lion(12, 2)
    with pytest.raises(ValueError, match="is not causal here"):
        m(torch.zeros(1, 3, 12), state={})
    assert m.state_bytes(100) == 0


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'selective'"):
        Lion(12, 2, decay="seletive")
    with pytest.raises(ValueError, match="unknown feature_map 'identity'"):
        Lion(12, 2, feature_map="identity")
