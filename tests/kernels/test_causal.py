"""Causal attention without its upper half: the formula by loops, compiled and in steps, whatever lies how in memory."""

import math

import pytest
import torch
from torch import library

from layersmith.kernels import causal, native
from layersmith.kernels.causal import causal_attention, in_steps, pays

# batch, heads, key-value heads, head width, value width, queries, keys
SIZES = [
    (1, 1, 1, 4, 4, 1, 1),
    (2, 4, 2, 8, 8, 7, 7),
    (1, 6, 2, 20, 33, 50, 50),
    (2, 3, 1, 16, 16, 13, 70),
    (1, 2, 2, 64, 64, 131, 131),
    (1, 1, 1, 3, 5, 1, 40),
]


@pytest.fixture(params=["compiled", "steps"])
def run(request):
    if request.param == "compiled":
        assert native.loaded(), "these tests need a C++ compiler and ninja"
        return causal_attention
    return in_steps


def given(batch, heads, kv_heads, width, v_width, queries, keys, dtype=torch.float32):
    """As parts have them: heads beside one another in one token's row."""
    torch.manual_seed(queries)
    q = torch.randn(batch, queries, heads, width, dtype=dtype).transpose(1, 2)
    k = torch.randn(batch, keys, kv_heads, width, dtype=dtype).transpose(1, 2)
    return q, k, torch.randn(batch, keys, kv_heads, v_width, dtype=dtype).transpose(1, 2)


def by_loops(q, k, v, scale):
    q, k, v = q.double(), k.double(), v.double()
    y, before = torch.zeros(*q.shape[:-1], v.shape[-1], dtype=torch.double), k.shape[2] - q.shape[2]
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            g = h // (q.shape[1] // k.shape[1])
            for t in range(q.shape[2]):
                seen = before + t + 1
                weights = torch.softmax(scale * (k[b, g, :seen] @ q[b, h, t]), 0)
                y[b, h, t] = weights @ v[b, g, :seen]
    return y


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("scale", [None, 0.4, -0.3])
def test_by_loops(run, sizes, scale):
    q, k, v = given(*sizes)
    y = run(q, k, v, scale)
    expected = by_loops(q, k, v, 1 / math.sqrt(sizes[3]) if scale is None else scale)
    torch.testing.assert_close(y.double(), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("size", [30.0, 1000.0])
def test_scores_far_apart_pick_the_largest(size):
    """Exponentials neither overflow nor vanish: the limit is the value of the token with the largest score."""
    q, k, v = given(1, 2, 2, 8, 8, 40, 40)
    assert native.loaded()
    y = causal_attention(q * size, k, v, 1.0)
    torch.testing.assert_close(y.double(), by_loops(q * size, k, v, 1.0), rtol=1e-4, atol=1e-4)
    assert torch.equal(y[:, :, 0], v[:, :, 0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_where_it_may_be_seen(value):
    """In steps it does not: torch's kernel adds a mask of -inf, and NaN - inf is NaN."""
    assert native.loaded()
    q, k, v = given(1, 2, 1, 8, 8, 60, 60)
    k = k.clone()
    k[0, 0, 37, 2] = value
    y = causal_attention(q, k, v, None)
    assert torch.isfinite(y[:, :, :37]).all()
    assert y[:, :, 37:].isnan().any(-1).any(-1).all()


def test_a_value_that_is_not_finite_reaches_its_tile_and_those_after_it():
    assert native.loaded()
    q, k, v = given(1, 1, 1, 8, 8, 60, 60)
    v = v.clone()
    v[0, 0, 40, 2] = float("nan")
    y = causal_attention(q, k, v, None)[0, 0]
    assert y[40:, 2].isnan().all()
    assert torch.isfinite(y[:35]).all()
    assert torch.isfinite(y[:, 3]).all()


@pytest.mark.parametrize("sizes", [(1, 3, 1, 16, 16, 300, 300), (1, 2, 2, 8, 8, 20, 5000)])
def test_equal_bits_for_every_number_of_threads_and_layout_in_memory(sizes):
    q, k, v = given(*sizes)
    assert native.loaded()
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(causal_attention(q, k, v, None))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    turned = [x.transpose(2, 3).contiguous().transpose(2, 3) for x in (q, k, v)]  # channels far apart
    for layout in ([x.contiguous() for x in (q, k, v)], turned):
        assert torch.equal(causal_attention(*layout, None), found[0])


def test_where_it_pays():
    q, k, v = given(1, 2, 2, 8, 8, causal.KERNEL_FEWEST, causal.KERNEL_FEWEST)
    assert not pays(q, k, v)  # gradients are on
    with torch.no_grad():
        assert native.loaded()
        assert pays(q, k, v)
        assert not pays(q[:, :, 1:], k, v)
        assert not pays(q.double(), k.double(), v.double())
        with native.set_aside():
            assert not pays(q, k, v)
            long = given(1, 2, 2, 8, 8, causal.FEWEST, causal.FEWEST)
            assert pays(*long)
            assert not pays(long[0][:, :, 1:], *long[1:])


@pytest.mark.parametrize("wrong", ["tokens", "heads", "width", "queries"])
def test_sizes_that_do_not_belong_together_are_refused(wrong):
    q, k, v = given(1, 4, 2, 8, 8, 40, 40)
    assert native.loaded()
    if wrong == "tokens":
        v = v[:, :, 1:]
    elif wrong == "heads":
        q = q[:, :3]
    elif wrong == "width":
        k = k[..., 1:]
    else:
        k, v = k[:, :, 1:], v[:, :, 1:]
    with pytest.raises(RuntimeError, match="causal_attention"):
        causal_attention(q, k, v, None)


def test_torch_s_rules_for_operators():
    rules = ("test_schema", "test_faketensor")
    library.opcheck(
        torch.ops.layersmith.causal_attention.default, (*given(1, 4, 2, 8, 8, 40, 40), None), test_utils=rules
    )
