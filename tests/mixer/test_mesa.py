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


@pytest.mark.oracle("mesa")
@torch.no_grad()
@pytest.mark.parametrize("chunk", [4, 64])
def test_forgetting_weighs_squares_by_their_age(chunk):
    """One head and token at a time: rows scaled by the root of the product of all later factors; lam learned."""
    torch.manual_seed(0)
    m = Mesa(8, 2, chunk=chunk, learn_lam=True, forget=True).double()
    m.log_lam.copy_(torch.tensor([-1.0, 0.5]))
    m.keep.weight.mul_(3)
    m.keep.bias.zero_()
    x = torch.randn(1, 9, 8, dtype=torch.float64)
    q, k, v, keep = m.q(x[0]), m.k(x[0]), m.v(x[0]), m.keep(x[0]).sigmoid()
    out, eye = torch.zeros_like(q), torch.eye(4, dtype=torch.float64)
    for h in range(2):
        own = slice(4 * h, 4 * h + 4)
        for t in range(9):
            gram, kv = m.log_lam[h].exp() * eye, torch.zeros_like(eye)
            for s in range(t + 1):
                weight = keep[s + 1 : t + 1, h].prod()
                gram = gram + weight * torch.outer(k[s, own], k[s, own])
                kv = kv + weight * torch.outer(k[s, own], v[s, own])
            out[t, own] = q[t, own] @ torch.linalg.inv(gram) @ kv
    torch.testing.assert_close(m(x)[0][0], m.o(out), atol=1e-10, rtol=0)


@pytest.mark.oracle("mesa")
@torch.no_grad()
def test_equals_the_update_of_the_inverse_by_one_rank():
    """The recursion of the paper, R_t = R - R k k^T R / (1 + k^T R k) from R_0 = I / lam, at every token."""
    torch.manual_seed(0)
    m = Mesa(6, 1, lam=0.7).double()
    x = torch.randn(1, 12, 6, dtype=torch.float64)
    q, k, v = m.q(x[0]), m.k(x[0]), m.v(x[0])
    r, kv, rows = torch.eye(6, dtype=torch.float64) / 0.7, torch.zeros(6, 6, dtype=torch.float64), []
    for t in range(12):
        rk = r @ k[t]
        r = r - torch.outer(rk, rk) / (1 + k[t] @ rk)
        kv = kv + torch.outer(k[t], v[t])
        rows.append(q[t] @ r @ kv)
    torch.testing.assert_close(m(x)[0][0], m.o(torch.stack(rows)), atol=1e-10, rtol=0)


def test_forgetting_over_a_whole_sequence_is_refused():
    with pytest.raises(ValueError, match="forget=True tells old tokens"):
        Mesa(8, 2, causal=False, forget=True)


@pytest.mark.parametrize("lam", [0.0, -1.0, float("inf"), float("nan")])
def test_a_penalty_that_leaves_no_solution_is_refused(lam):
    with pytest.raises(ValueError, match="lam must be a number above 0"):
        Mesa(8, 2, lam=lam)
