"""Simplified linear attention against float64 loops, and its two halves alone."""

import pytest
import torch

from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.sla import SimplifiedLinearAttention


def by_loops(m: SimplifiedLinearAttention, x: torch.Tensor) -> torch.Tensor:
    """The quadratic form and the convolution, one pair of tokens at a time, for one sequence x (T, D)."""
    d, group, tokens = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads, len(x)
    q, k, v = m.q(x), m.k(x), m.v(x)
    kernel = m.conv.kernel_size[0]
    out = torch.zeros_like(q)
    for h in range(m.q.out_features // d):
        own, shared = slice(h * d, h * d + d), slice(h // group * d, h // group * d + d)
        for t in range(tokens):
            norm = m.eps
            for s in range(t + 1 if m.causal else tokens):
                weight = sum(
                    max(a, 0) * max(b, 0) for a, b in zip(q[t, own].tolist(), k[s, shared].tolist(), strict=True)
                )
                norm += weight
                out[t, own] += weight * v[s, shared]
            out[t, own] /= norm
            out[t, own] += m.conv.bias
            for j in range(kernel):
                s = t - kernel + 1 + j + (0 if m.causal else kernel // 2)
                if 0 <= s < tokens:
                    out[t, own] += m.conv.weight[:, 0, j] * v[s, shared]
    return m.o(out)


@pytest.mark.oracle("sla")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kernel", [1, 3])
def test_equals_loops(kernel, causal):
    torch.manual_seed(0)
    m = SimplifiedLinearAttention(12, 4, n_kv_heads=2, kernel=kernel, causal=causal, chunk=4).double()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("sla")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_without_a_kernel_it_is_relu_linear_attention(causal):
    torch.manual_seed(0)
    m = SimplifiedLinearAttention(16, 4, rope_theta=100.0, causal=causal)
    linear = LinearAttention(16, 4, rope_theta=100.0, feature_map="relu", causal=causal)
    linear.load_state_dict(m.state_dict(), strict=False)
    m.conv.weight.zero_()
    m.conv.bias.zero_()
    x = torch.randn(2, 70, 16)
    torch.testing.assert_close(m(x)[0], linear(x)[0], atol=1e-6, rtol=0)


def test_a_kernel_without_a_middle_is_refused_where_it_looks_both_ways():
    SimplifiedLinearAttention(16, 4, kernel=4)
    with pytest.raises(ValueError, match="kernel=4 must be odd"):
        SimplifiedLinearAttention(16, 4, kernel=4, causal=False)
