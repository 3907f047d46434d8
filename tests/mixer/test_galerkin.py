"""Galerkin and Fourier attention against the quadratic form in float64, and the resolution they do not see."""

import math

import pytest
import torch

from layersmith.mixer.galerkin import GalerkinAttention


def layer_norm(vector, weight, bias, eps):
    mean = float(vector.mean())
    size = math.sqrt(float((vector - mean).square().mean()) + eps)
    return (vector - mean) / size * weight + bias


def by_loops(m: GalerkinAttention, x: torch.Tensor) -> torch.Tensor:
    """(q_t . k_s) v_s one pair of tokens at a time, with the norms of the kind, for one sequence x (T, D)."""
    d, group, tokens = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads, len(x)
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(m.q.out_features // d):
        g = h // group
        own, shared = slice(h * d, h * d + d), slice(g * d, g * d + d)
        for t in range(tokens):
            seen = t + 1 if m.causal else tokens
            for s in range(seen):
                q_t, v_s = q[t, own], v[s, shared]
                k_s = layer_norm(k[s, shared], m.norm_k.weight[g, 0], m.norm_k.bias[g, 0], m.norm_k.eps)
                if m.kind == "fourier":
                    q_t = layer_norm(q_t, m.norm_other.weight[h, 0], m.norm_other.bias[h, 0], m.norm_k.eps)
                else:
                    v_s = layer_norm(v_s, m.norm_other.weight[g, 0], m.norm_other.bias[g, 0], m.norm_k.eps)
                out[t, own] += float(q_t @ k_s) * v_s / seen
    return m.o(out)


@pytest.mark.oracle("galerkin")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", ["galerkin", "fourier"])
def test_equals_the_quadratic_form(kind, causal):
    torch.manual_seed(0)
    m = GalerkinAttention(12, 4, n_kv_heads=2, kind=kind, causal=causal, chunk=4, eps=1e-3).double()
    for norm in (m.norm_k, m.norm_other):
        norm.weight.normal_()
        norm.bias.normal_()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("galerkin")
@torch.no_grad()
def test_a_smooth_input_sampled_twice_as_densely_gives_nearly_the_same():
    """The sum over tokens is a mean: the difference falls with the distance between samples (factors 2 or better)."""
    torch.manual_seed(0)
    m = GalerkinAttention(8, 2).double()

    def at(tokens):
        place = torch.arange(tokens, dtype=torch.float64)[:, None] / tokens
        x = torch.sin(3 * place + torch.arange(8)) * torch.exp(-place)
        return m(x[None])[0][0]

    coarse, fine, finer = at(64), at(128)[::2], at(256)[::4]
    first, second = (coarse - fine).abs().max(), (fine - finer).abs().max()
    assert first < 0.02 * coarse.abs().max()
    assert second < 0.6 * first


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind must be 'galerkin' or 'fourier'"):
        GalerkinAttention(8, 2, kind="ritz")
