"""Limit softmax: its exponential by its definition, the way to softmax as squarings are added, and what is cut off."""

import math

import pytest
import torch

from layersmith.mixer.limit_softmax import LimitSoftmaxAttention
from layersmith.mixer.softmax import SoftmaxAttention


def limit_softmax_by_loops(m: LimitSoftmaxAttention, x: torch.Tensor) -> torch.Tensor:
    d, heads = m.head_dim, m.q.out_features // m.head_dim
    q, k, v = m.q(x).tolist(), m.k(x).tolist(), m.v(x).tolist()
    out = torch.zeros(len(x), heads * d, dtype=x.dtype)
    for h in range(heads):
        shared = h // (heads // m.n_kv_heads) * d
        for t in range(len(x)):
            readable = range(t + 1 if m.causal else len(x))
            scores = [m.scale * sum(q[t][h * d + c] * k[s][shared + c] for c in range(d)) for s in readable]
            below = [score - max(scores) for score in scores]
            n = 2**m.squarings
            grown = [(1 + z / n) ** n if z > m.cutoff else 0.0 for z in below]
            for c in range(d):
                out[t, h * d + c] = sum(e * v[s][shared + c] for s, e in enumerate(grown)) / sum(grown)
    return m.o(out)


@pytest.mark.oracle("limit_softmax")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_equals_loops(causal):
    torch.manual_seed(0)
    m = LimitSoftmaxAttention(8, 4, squarings=3, n_kv_heads=2, causal=causal, scale=12.0, cutoff=-6.0).double()
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    want = torch.stack([limit_softmax_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("limit_softmax")
@torch.no_grad()
def test_with_many_squarings_it_is_softmax_attention():
    torch.manual_seed(0)
    plain = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0, scale=3.0).double()
    x, errors = torch.randn(2, 9, 16, dtype=torch.float64), []
    for squarings in (5, 10, 20):
        m = LimitSoftmaxAttention(16, 4, squarings, 2, rope_theta=100.0, scale=3.0, cutoff=-30.0).double()
        m.load_state_dict(plain.state_dict())
        errors.append((m(x)[0] - plain(x)[0]).abs().max().item())
    assert errors[0] > 10 * errors[1] > 1000 * errors[2]
    assert errors[2] < 1e-5


def test_the_exponential_is_never_too_large_and_misses_by_less_with_every_squaring():
    z = torch.linspace(-14, 0, 20_001, dtype=torch.float64)
    worst = []
    for squarings in (4, 5, 6, 8):
        m = LimitSoftmaxAttention(8, 2, squarings)
        short = z.exp() - m.exponential(z)
        assert short.min() >= 0
        worst.append(short.max().item())
    # e^z - (1 + z/n)^n is near z^2 e^z / 2n, which is largest at z = -2
    for squarings, error in zip((4, 5, 6, 8), worst, strict=True):
        assert error == pytest.approx(2 * math.exp(-2) / 2**squarings, rel=0.1)
    assert m.exponential(torch.tensor([-14.0, -40.0])).tolist() == [0.0, 0.0]


def test_bad_configs_are_refused():
    for wrong, message in (({"squarings": 3}, "cutoff"), ({"cutoff": 0.0}, "cutoff"), ({"squarings": 0}, "squarings")):
        with pytest.raises(ValueError, match=message):
            LimitSoftmaxAttention(8, 2, **wrong)
