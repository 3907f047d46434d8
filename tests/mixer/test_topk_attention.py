"""Top-k attention against a float64 loop, its limit case, and the transform that makes it a search for neighbours."""

import math

import pytest
import torch

from layersmith.mixer import topk_attention
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.mixer.topk_attention import TopKAttention


def by_loops(m, x):
    """The equation, one head and one query at a time, for one text x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(heads):
        own, g = slice(h * d, (h + 1) * d), h // (heads // m.n_kv_heads)
        shared = slice(g * d, (g + 1) * d)
        for t in range(len(x)):
            scores = {s: m.scale * float(q[t, own] @ k[s, shared]) for s in range(t + 1 if m.causal else len(x))}
            best = sorted(scores, key=scores.get)[-m.best :]
            total = sum(math.exp(scores[s]) for s in best)
            for s in best:
                out[t, own] += math.exp(scores[s]) / total * v[s, shared]
    return m.o(out)


def inputs(*shape):
    return torch.randn(*shape, 16, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("topk_attention")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("k", [1, 4])
def test_equals_loops(k, causal, monkeypatch):
    monkeypatch.setattr(topk_attention, "BLOCK", 6)
    torch.manual_seed(0)
    m = TopKAttention(16, 4, n_kv_heads=2, k=k, causal=causal).double()
    x = inputs(2, 17)
    close(m(x)[0], torch.stack([by_loops(m, row) for row in x]))


@torch.no_grad()
@pytest.mark.oracle("topk_attention")
def test_as_many_keys_as_tokens_is_softmax_attention():
    torch.manual_seed(0)
    full = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0).double()
    m = TopKAttention(16, 4, n_kv_heads=2, rope_theta=100.0, k=20).double()
    m.load_state_dict(full.state_dict())
    x = inputs(2, 20)
    close(m(x)[0], full(x)[0])


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[13], [5, 8], [1] * 13], ids=str)
def test_streaming_and_padding(sizes):
    torch.manual_seed(0)
    m = TopKAttention(16, 4, n_kv_heads=2, k=3, rope_theta=100.0).double()
    mask = torch.ones(4, 13, dtype=torch.bool)
    mask[0, :6] = mask[1, 9:] = mask[2, [1, 2, 7]] = False
    x, more = inputs(4, 13), inputs(4, 2)
    for given in (None, mask):
        state, outputs, start = None, [], 0
        for size in sizes:
            part = slice(start, start + size)
            y, state = m(x[:, part], state, None if given is None else given[:, part])
            outputs.append(y)
            start += size
        after, _ = m(more, state)
        got = torch.cat(outputs, 1)
        for row in range(4):
            real = x[row] if given is None else x[row, given[row]]
            alone, _ = m(torch.cat((real, more[row]))[None])
            close(torch.cat((got[row] if given is None else got[row, given[row]], after[row])), alone[0])


def test_the_nearest_keys_of_the_transform_are_those_of_the_largest_products():
    torch.manual_seed(0)
    q, k = inputs(50), 3 * inputs(200)
    c = k.norm(dim=-1).max()
    height = (1 - k.square().sum(-1) / c**2).clamp_min(0).sqrt()
    points = torch.cat((k / c, height[:, None]), 1)
    queries = torch.cat((q / q.norm(dim=-1, keepdim=True), q.new_zeros(50, 1)), 1)
    nearest = torch.cdist(queries, points).topk(10, largest=False).indices
    assert torch.equal(nearest, (q @ k.T).topk(10).indices)


def test_values_of_other_keys_are_not_read():
    """No gradient reaches them."""
    torch.manual_seed(0)
    m = TopKAttention(16, 1, k=2, causal=False).double()
    v = torch.randn(1, 1, 9, 16, dtype=torch.float64).requires_grad_()
    q, k = torch.randn(1, 1, 1, 16, dtype=torch.float64), torch.randn(1, 1, 9, 16, dtype=torch.float64)
    m._best_of(q, k, v, None, 0).sum().backward()
    assert int((v.grad.abs().sum(-1) > 0).sum()) == 2


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="k must be a positive integer"):
        TopKAttention(16, 4, k=0)
