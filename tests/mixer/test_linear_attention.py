"""Linear attention against the quadratic form in float64, feature maps, limit cases, copied softmax weights."""

import math

import pytest
import torch

from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.softmax import SoftmaxAttention


def features(name: str, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """phi of one head's vector x (d,), entry by entry."""
    if name == "elu1":
        return torch.tensor([e + 1 if e > 0 else math.exp(e) for e in x.tolist()], dtype=x.dtype)
    if name == "identity":
        return x
    if name == "relu":
        return torch.tensor([max(e, 0.0) for e in x.tolist()], dtype=x.dtype)
    z = [sum(float(x[i] * weight[i, j]) for i in range(len(x))) for j in range(len(x))]
    up, down = [math.exp(e) for e in z], [math.exp(-e) for e in z]
    return torch.tensor([e / sum(up) for e in up] + [e / sum(down) for e in down], dtype=x.dtype)


def linear_attention_by_loops(m: LinearAttention, name: str, x: torch.Tensor) -> torch.Tensor:
    """sum_s phi(q_t) . phi(k_s) v_s / (sum_s phi(q_t) . phi(k_s) + eps), for one sequence x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    group = heads // m.n_kv_heads
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(heads):
        own, g = slice(h * d, (h + 1) * d), h // group
        shared = slice(g * d, (g + 1) * d)
        w_q, w_k = (m.phi_q.weight[h], m.phi_k.weight[g]) if name == "hedgehog" else (None, None)
        for t in range(len(x)):
            phi_q = features(name, q[t, own], w_q)
            norm = m.eps
            for s in range(t + 1 if m.causal else len(x)):
                weight = float(phi_q @ features(name, k[s, shared], w_k))
                norm += weight
                out[t, own] += weight * v[s, shared]
            out[t, own] /= norm if m.normalize else 1.0
    return m.o(out)


@pytest.mark.oracle("linear_attention")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("feature_map", ["elu1", "relu", "hedgehog"])
def test_equals_loops(feature_map, causal):
    torch.manual_seed(0)
    m = LinearAttention(12, 4, n_kv_heads=2, feature_map=feature_map, causal=causal, bias=True, chunk=4).double()
    for parameter in m.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    want = torch.stack([linear_attention_by_loops(m, feature_map, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("linear_attention")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("feature_map", ["identity", "elu1"])
def test_equals_loops_without_the_normaliser(feature_map, causal):
    torch.manual_seed(0)
    m = LinearAttention(12, 4, n_kv_heads=2, feature_map=feature_map, causal=causal, normalize=False, chunk=4).double()
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    want = torch.stack([linear_attention_by_loops(m, feature_map, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_chunk_size_changes_nothing():
    torch.manual_seed(0)
    m = LinearAttention(16, 2).double()
    x = torch.randn(1, 65, 16, dtype=torch.float64)
    want = m(x)[0]
    for m.chunk in (1, 7, 64, 1000):
        torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("linear_attention")
@torch.no_grad()
def test_one_token_returns_its_own_value():
    torch.manual_seed(0)
    m = LinearAttention(16, 2, eps=0.0).double()
    x = torch.randn(3, 1, 16, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], m.o(m.v(x)), atol=1e-12, rtol=0)


@torch.no_grad()
def test_one_key_value_head_per_query_head_equals_default():
    torch.manual_seed(0)
    m, grouped = LinearAttention(16, 4), LinearAttention(16, 4, n_kv_heads=4)
    grouped.load_state_dict(m.state_dict())
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(m(x)[0], grouped(x)[0], atol=0, rtol=0)


@pytest.mark.oracle("linear_attention")
@torch.no_grad()
def test_causal_last_token_equals_whole_sequence_form():
    torch.manual_seed(0)
    causal, whole = LinearAttention(16, 4), LinearAttention(16, 4, causal=False)
    whole.load_state_dict(causal.state_dict())
    x = torch.randn(2, 70, 16)
    torch.testing.assert_close(causal(x)[0][:, -1], whole(x)[0][:, -1], atol=1e-6, rtol=0)


def test_softmax_weights_can_be_copied_in():
    softmax = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0, qk_norm=True, bias=True)
    m = LinearAttention(16, 4, n_kv_heads=2, rope_theta=100.0, qk_norm=True, bias=True, feature_map="hedgehog")
    result = m.load_state_dict(softmax.state_dict(), strict=False)
    assert result.missing_keys == ["phi_q.weight", "phi_k.weight"]
    assert result.unexpected_keys == []


def test_cost_is_linear_in_chunks():
    m = LinearAttention(16, 4, n_kv_heads=2, chunk=8)
    projections = 2 * 24 * 16 * (16 + 8 + 8 + 16)
    write = 2 * 2 * 24 * 4 * 5  # K^T V once per key-value head, with the normaliser's column
    read = 2 * 4 * 24 * 4 * 5 + 2 * 4 * 24 * 8 * (4 + 5)  # Q S, then tril(Q K^T) V per query head
    assert m.cost(tokens=24).flops == projections + write + read
    assert m.cost(tokens=48).flops == 2 * m.cost(tokens=24).flops
    assert m.state_bytes(24) == m.state_bytes(48) == 2 * 4 * 5 * 4


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="Did you mean 'hedgehog'"):
        LinearAttention(16, 4, feature_map="hedghog")
    with pytest.raises(ValueError, match="chunk must be a positive integer"):
        LinearAttention(16, 4, chunk=0)
    with pytest.raises(ValueError, match="multiple of n_kv_heads"):
        LinearAttention(16, 4, n_kv_heads=3)
    with pytest.raises(ValueError, match="normalize=False"):
        LinearAttention(16, 4, feature_map="identity")
