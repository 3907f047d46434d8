"""Combiner against a float64 loop over spans, its limit cases, and the attention it implies."""

import math

import pytest
import torch

from layersmith.mixer.combiner import Combiner
from layersmith.mixer.softmax import SoftmaxAttention


def pooled(m, rows):
    rows = torch.stack(rows)
    return rows.mean(0) if m.pool == "mean" else rows.max(0).values


def by_spans(m, x):
    """The equation, one head and one query at a time, for one text x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(heads):
        own, g = slice(h * d, (h + 1) * d), h // (heads // m.n_kv_heads)
        shared = slice(g * d, (g + 1) * d)
        for t in range(len(x)):
            keys, values = [], []
            for begin in range(0, t // m.span * m.span, m.span):
                span = range(begin, begin + m.span)
                query = pooled(m, [q[s, own] for s in span])
                weights = torch.stack([m.scale * (query @ k[s, shared]) for s in span]).softmax(0)
                keys.append(pooled(m, [k[s, shared] for s in span]))
                values.append(sum(w * v[s, shared] for w, s in zip(weights, span, strict=True)))
            local = range(t // m.span * m.span, t + 1)
            keys += [k[s, shared] for s in local]
            values += [v[s, shared] for s in local]
            weights = [math.exp(m.scale * float(q[t, own] @ key)) for key in keys]
            for weight, value in zip(weights, values, strict=True):
                out[t, own] += weight / sum(weights) * value
    return m.o(out)


def built(**changes):
    torch.manual_seed(0)
    return Combiner(16, 4, **{"n_kv_heads": 2, "span": 5, **changes}).double()


def inputs(*shape):
    return torch.randn(*shape, 16, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("combiner")
@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("tokens", [3, 20, 23])
def test_equals_spans(pool, tokens):
    m = built(pool=pool)
    x = inputs(2, tokens)
    close(m(x)[0], torch.stack([by_spans(m, row) for row in x]))


@torch.no_grad()
@pytest.mark.oracle("combiner")
@pytest.mark.parametrize("span", [1, 40])
def test_one_span_and_spans_of_one_token_are_softmax_attention(span):
    torch.manual_seed(0)
    full = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0).double()
    m = Combiner(16, 4, n_kv_heads=2, rope_theta=100.0, span=span).double()
    m.load_state_dict(full.state_dict())
    x = inputs(2, 40)
    close(m(x)[0], full(x)[0])


def test_every_earlier_token_has_weight_and_no_later_one():
    """The matrix that the values are multiplied by: rows sum to 1, and all is positive where attention may read."""
    m = built(span=4, pool="max", n_kv_heads=4)
    q, k = torch.randn(1, 4, 14, 4, dtype=torch.float64), torch.randn(1, 4, 14, 4, dtype=torch.float64)
    eye = torch.eye(14, dtype=torch.float64).expand(1, 4, 14, 14)
    weights, _ = m.mix(q, k, eye, None, None)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 4, 14, dtype=torch.float64))
    place = torch.arange(14)
    assert (weights[..., place <= place[:, None]] > 0).all()
    assert (weights[..., place > place[:, None]] == 0).all()


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[23], [9, 14], [1] * 23, [5, 1, 0, 17]], ids=str)
def test_streaming_and_padding(sizes):
    """However a text is cut and padded, real tokens get what they have alone, and so do those that follow."""
    m = built(rope_theta=100.0)
    mask = torch.ones(5, 23, dtype=torch.bool)
    mask[0, :6] = mask[1, 15:] = mask[2, [1, 2, 7, 13, 14, 15, 20]] = mask[4] = False
    x, more = inputs(5, 23), inputs(5, 7)
    for given in (None, mask):
        state, outputs, start = None, [], 0
        for size in sizes:
            part = slice(start, start + size)
            y, state = m(x[:, part], state, None if given is None else given[:, part])
            outputs.append(y)
            start += size
        assert state["kbar"].shape[2] <= 4
        after, _ = m(more, state)
        got = torch.cat(outputs, 1)
        assert got.isfinite().all()
        for row in range(5):
            real = x[row] if given is None else x[row, given[row]]
            alone, _ = m(torch.cat((real, more[row]))[None])
            close(torch.cat((got[row] if given is None else got[row, given[row]], after[row])), alone[0])


def test_the_state_is_a_summary_for_each_span():
    m = built(span=8, n_kv_heads=4)
    assert m.state_bytes(800) == 100 * 2 * 4 * 4 * 8
    assert m.state_bytes(807) == (100 * 2 + 7 * 3) * 4 * 4 * 8


def test_work_grows_with_the_power_one_and_a_half():
    def attention(tokens):
        m = Combiner(8, 1, span=math.isqrt(tokens))
        return m.cost(1, tokens).flops - 2 * tokens * 4 * 8 * 8

    assert 1.4 < math.log(attention(4096) / attention(256)) / math.log(16) < 1.6


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="unknown pool 'sum'"):
        built(pool="sum")
