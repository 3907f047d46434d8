"""The mesa layer against a ridge regression solved anew in float64 at each token, and its two limits."""

import pytest
import torch

from layersmith.mixer.linear_attention import LinearAttention
from layersmith.mixer.mesa import Mesa


def ridge_by_loops(m: Mesa, x: torch.Tensor) -> torch.Tensor:
    """One head and one token at a time, as an augmented least-squares problem; for one sequence x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    group = heads // m.n_kv_heads
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(heads):
        own, shared = slice(h * d, (h + 1) * d), slice(h // group * d, (h // group + 1) * d)
        for t in range(len(x)):
            seen = t + 1 if m.causal else len(x)
            rows = torch.cat((k[:seen, shared], m.lam**0.5 * torch.eye(d, dtype=x.dtype)))
            values = torch.cat((v[:seen, shared], torch.zeros(d, d, dtype=x.dtype)))
            out[t, own] = q[t, own] @ torch.linalg.lstsq(rows, values, driver="gelsd").solution
    return m.o(out)


@pytest.mark.oracle("mesa")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("chunk", [4, 64])
def test_equals_ridge_at_every_token(causal, chunk):
    torch.manual_seed(0)
    m = Mesa(12, 4, n_kv_heads=2, lam=0.3, causal=causal, chunk=chunk, bias=True).double()
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    want = torch.stack([ridge_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-11, rtol=0)


@pytest.mark.oracle("mesa")
@torch.no_grad()
def test_a_heavy_penalty_leaves_linear_attention():
    torch.manual_seed(0)
    m, linear = Mesa(12, 2, lam=1e6), LinearAttention(12, 2, feature_map="identity", normalize=False)
    linear.load_state_dict(m.state_dict())
    m, linear, x = m.double(), linear.double(), torch.randn(2, 10, 12, dtype=torch.float64)
    torch.testing.assert_close(1e6 * m(x)[0], linear(x)[0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_values_that_a_linear_map_gives_are_read_back_exactly():
    torch.manual_seed(0)
    m = Mesa(8, 1, lam=1e-12).double()
    m.q.weight.copy_(m.k.weight)
    m.v.weight.copy_(2 * m.k.weight)  # v = 2 k: after 8 tokens the regression knows it
    x = torch.randn(1, 20, 8, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0][:, 12:], m.o(m.v(x))[:, 12:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("lam", [0.0, -1.0, float("inf"), float("nan")])
def test_a_penalty_that_leaves_no_solution_is_refused(lam):
    with pytest.raises(ValueError, match="lam must be a number above 0"):
        Mesa(8, 2, lam=lam)
