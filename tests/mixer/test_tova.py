"""TOVA against a float64 loop over single tokens with the rule written out, its limit case, and its state."""

import math

import pytest
import torch

from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.mixer.tova import TOVA


def by_tokens(m, x):
    """(outputs (T, D), the places kept in the end) of one text x (T, D), token by token and head by head."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    group = heads // m.n_kv_heads
    q, k, v = m.q(x), m.k(x), m.v(x)
    out, kept = torch.zeros_like(q), []
    for t in range(len(x)):
        kept.append(t)
        means = dict.fromkeys(kept, 0.0)
        for h in range(heads):
            own, shared = slice(h * d, (h + 1) * d), slice(h // group * d, (h // group + 1) * d)
            weights = {s: math.exp(m.scale * float(q[t, own] @ k[s, shared])) for s in kept}
            for s, weight in weights.items():
                out[t, own] += weight / sum(weights.values()) * v[s, shared]
                means[s] += weight / sum(weights.values()) / heads
        if (t + 1) % m.chunk == 0 and len(kept) > m.keep:
            for _ in range(len(kept) - m.keep):
                least = min(means, key=means.get)
                del means[least]
                kept.remove(least)
    return m.o(out), kept


def built(keep=4, chunk=1, **changes):
    torch.manual_seed(0)
    return TOVA(16, 4, n_kv_heads=2, keep=keep, chunk=chunk, scale=2.0, **changes).double()


def inputs(*shape):
    return torch.randn(*shape, 16, dtype=torch.float64)


def close(a, b):
    torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("tova")
@pytest.mark.parametrize(("keep", "chunk"), [(4, 1), (1, 1), (6, 3), (4, 4)])
def test_equals_tokens_and_keeps_what_the_rule_says(keep, chunk):
    m = built(keep, chunk)
    x = inputs(1, 22)
    want, kept = by_tokens(m, x[0])
    y, state = m(x)
    close(y[0], want)
    close(state["k"], m.k(x).view(1, 22, 2, 4).transpose(1, 2)[:, :, kept])
    assert kept != list(range(22 - len(kept), 22)), "or a window would do"


@torch.no_grad()
@pytest.mark.oracle("tova")
@pytest.mark.parametrize("chunk", [1, 8])
def test_keeping_everything_is_softmax_attention(chunk):
    torch.manual_seed(0)
    full = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0).double()
    m = TOVA(16, 4, n_kv_heads=2, rope_theta=100.0, keep=24, chunk=chunk).double()
    m.load_state_dict(full.state_dict())
    x = inputs(2, 24)
    y, state = m(x)
    close(y, full(x)[0])
    close(state["k"], full(x)[1]["k"])


@torch.no_grad()
@pytest.mark.parametrize("sizes", [[23], [9, 14], [1] * 23, [5, 1, 0, 17]], ids=str)
@pytest.mark.parametrize(("keep", "chunk"), [(3, 1), (6, 3)])
def test_streaming_and_padding(keep, chunk, sizes):
    """However a text is cut and padded, real tokens get what they have alone, and so do those that follow."""
    m = built(keep, chunk, rope_theta=100.0)
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
            assert state["k"].shape[2] <= keep + chunk - 1
        after, _ = m(more, state)
        got = torch.cat(outputs, 1)
        assert got.isfinite().all()
        for row in range(5):
            real = x[row] if given is None else x[row, given[row]]
            alone, _ = m(torch.cat((real, more[row]))[None])
            close(torch.cat((got[row] if given is None else got[row, given[row]], after[row])), alone[0])


@torch.no_grad()
def test_bytes_do_not_grow():
    m = built(keep=8, chunk=4)
    assert m.state_bytes(64) == m.state_bytes(4096) == 2 * 2 * 8 * 4 * 8
    assert m.state_bytes(67) == 2 * 2 * 11 * 4 * 8


@torch.no_grad()
def test_what_was_dropped_is_not_taken_back():
    m = built(keep=4)
    x = inputs(1, 9)
    assert m.without_last(m(x)[1], 9, 1) is None
    assert m.without_last(m(x[:, :3], mask=torch.tensor([[True, False, True]]))[1], 3, 1) is None
    m = built(keep=12)
    back = m.without_last(m(torch.cat((x[:, :6], inputs(1, 3)), 1))[1], 9, 3)
    close(m(x[:, 6:], back)[0], m(x)[0][:, 6:])


def test_gradients_reach_what_is_kept():
    m = built(keep=4, chunk=2)
    x = inputs(1, 15).requires_grad_()
    m(x)[0].square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in m.parameters())
    assert x.grad.isfinite().all()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match=r"keep=10 must be a multiple of chunk=4"):
        TOVA(16, 4, keep=10, chunk=4)
