"""Attention to averages against loops, and softmax attention where nothing is averaged."""

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.mixer.pooled_attention import PooledAttention, averages
from layersmith.mixer.softmax import SoftmaxAttention


def made(pool):
    torch.manual_seed(0)
    return PooledAttention(12, 4, n_kv_heads=2, pool=pool).double()


@pytest.mark.oracle("pooled_attention")
@torch.no_grad()
@pytest.mark.parametrize("pool", [1, 3, 4])
def test_equals_loops(pool):
    m = made(pool)
    x = torch.randn(11, 12, dtype=torch.float64)
    q, k, v = (linear(x).unflatten(-1, (-1, 3)) for linear in (m.q, m.k, m.v))
    rows = []
    for t in range(11):
        joined = []
        for h in range(4):
            read, total = torch.zeros(3, dtype=torch.float64), 0.0
            for i in range(pool):
                some = range(math.floor(i * 11 / pool), math.ceil((i + 1) * 11 / pool))
                key = sum(k[s, h // 2] for s in some) / len(some)
                value = sum(v[s, h // 2] for s in some) / len(some)
                weight = math.exp(float(q[t, h] @ key) / math.sqrt(3))
                read, total = read + weight * value, total + weight
            joined.append(read / total)
        rows.append(torch.cat(joined))
    torch.testing.assert_close(m(x[None])[0][0], m.o(torch.stack(rows)), atol=1e-12, rtol=0)


@pytest.mark.oracle("pooled_attention")
@torch.no_grad()
@pytest.mark.parametrize("pool", [9, 50])
def test_with_a_place_for_every_token_it_is_softmax_attention(pool):
    m = made(pool)
    full = SoftmaxAttention(12, 4, n_kv_heads=2, causal=False).double()
    full.load_state_dict(m.state_dict())
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], full(x)[0], atol=1e-12, rtol=0)


@pytest.mark.oracle("pooled_attention")
@pytest.mark.parametrize(("tokens", "pool"), [(11, 4), (7, 7), (20, 6)])
def test_places_are_those_of_adaptive_pooling(tokens, pool):
    x = torch.randn(1, 3, tokens, dtype=torch.float64)
    share, used = averages(torch.ones(1, tokens).bool(), pool, torch.float64)
    assert used.all()
    torch.testing.assert_close(x @ share.mT, F.adaptive_avg_pool1d(x, pool), atol=1e-12, rtol=0)
