"""Linformer against float64 loops, the limit in which it is softmax attention, and what it refuses."""

import math

import pytest
import torch

from layersmith.anatomy import find_sites, swap
from layersmith.errors import UserError
from layersmith.mixer.linformer import Linformer
from layersmith.mixer.softmax import SoftmaxAttention
from tests.refitting.conftest import tiny_llama


def by_loops(m, x):
    """The equation, one head and one query at a time, for one text x (T, D)."""
    heads, d = m.q.out_features // m.head_dim, m.head_dim
    q, k, v = m.q(x), m.k(x), m.v(x)
    e, f = m.e, m.e if m.f is None else m.f
    out = torch.zeros_like(q)
    for h in range(heads):
        own, g = slice(h * d, (h + 1) * d), h // (heads // m.n_kv_heads)
        shared = slice(g * d, (g + 1) * d)
        keys = [sum(e[r, s] * k[s, shared] for s in range(len(x))) for r in range(len(e))]
        values = [sum(f[r, s] * v[s, shared] for s in range(len(x))) for r in range(len(e))]
        for t in range(len(x)):
            weights = [math.exp(m.scale * float(q[t, own] @ key)) for key in keys]
            for weight, value in zip(weights, values, strict=True):
                out[t, own] += weight / sum(weights) * value
    return m.o(out)


@torch.no_grad()
@pytest.mark.oracle("linformer")
@pytest.mark.parametrize("settings", [{}, {"share_kv": True, "n_kv_heads": 2}, {"n_kv_heads": 1, "bias": True}])
def test_equals_loops(settings):
    torch.manual_seed(0)
    m = Linformer(16, 4, length=12, rank=3, **settings).double()
    for tokens in (12, 7):
        x = torch.randn(2, tokens, 16, dtype=torch.float64)
        want = torch.stack([by_loops(m, row) for row in x])
        torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@torch.no_grad()
@pytest.mark.oracle("linformer")
def test_with_every_key_for_itself_it_is_softmax_attention():
    torch.manual_seed(0)
    full = SoftmaxAttention(16, 4, n_kv_heads=2, causal=False, rope_theta=100.0).double()
    m = Linformer(16, 4, length=9, rank=9, n_kv_heads=2, rope_theta=100.0).double()
    m.load_state_dict(full.state_dict(), strict=False)
    m.e.copy_(torch.eye(9))
    m.f.copy_(torch.eye(9))
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0], full(x)[0], atol=1e-12, rtol=0)


@torch.no_grad()
def test_padding_changes_nothing_wherever_it_stands():
    torch.manual_seed(0)
    m = Linformer(16, 4, length=12, rank=3).double()
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 0, 1, 0, 0, 1], [0] * 6]).bool()
    x = torch.randn(4, 6, 16, dtype=torch.float64)
    y, state = m(x, mask=mask)
    assert state is None
    assert y.isfinite().all()
    for row in range(3):
        torch.testing.assert_close(y[row, mask[row]], m(x[row : row + 1, mask[row]])[0][0], atol=1e-12, rtol=0)


def test_work_grows_with_the_tokens_and_not_with_their_square():
    m = Linformer(16, 4, length=4096, rank=8)
    assert m.cost(1, 4096).flops == 4 * m.cost(1, 1024).flops


def test_a_longer_text_is_refused():
    with pytest.raises(ValueError, match="13 tokens are more than length=12"):
        Linformer(16, 4, length=12, rank=3)(torch.zeros(1, 13, 16))


def test_a_causal_place_is_refused():
    model = tiny_llama(layers=1)
    part = Linformer(32, 4, length=64, rank=4)
    with (
        pytest.raises(UserError, match="is causal: the model would see what it is to predict"),
        swap(model, {"layers.0.attn": part}, find_sites(model)),
    ):
        pass


def test_fitted_to_trained_attention_the_error_falls_with_the_rank():
    """The maps are the original's, and only the mixtures learn, from its outputs."""
    torch.manual_seed(0)
    full = SoftmaxAttention(16, 2, causal=False)
    full.q.weight.data *= 3.0  # scores that differ
    x = torch.randn(16, 1, 16) + torch.randn(16, 12, 16)
    want, errors = full(x)[0].detach(), []
    for rank in (1, 4, 12):
        torch.manual_seed(0)
        m = Linformer(16, 2, length=12, rank=rank)
        m.load_state_dict(full.state_dict(), strict=False)
        optimizer = torch.optim.Adam((m.e, m.f), lr=3e-2)
        for _ in range(80):
            loss = (m(x)[0] - want).square().mean() / want.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        errors.append(float(loss.detach()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]


def test_mixtures_of_unit_tokens_start_near_unit_size():
    torch.manual_seed(0)
    part = Linformer(8, 2, length=1024, rank=8)
    for mixture in (part.e, part.f):
        assert (mixture @ torch.randn(1024, 64)).std().item() == pytest.approx(1.0, rel=0.2)
