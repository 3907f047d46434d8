"""Kolmogorov-Arnold attention by loops; its limit is attention with the scores themselves; rows on the simplex."""

import math

import pytest
import torch

from layersmith.errors import UserError
from layersmith.mixer.kan_attention import KANAttention, onto_simplex
from tests.mixer.score_loops import D, by_loops, close, inputs, part


def nearest_on_simplex(row):
    """By bisection: the tau with sum max(row - tau, 0) = 1."""
    low, high = min(row) - 1, max(row)
    for _ in range(100):
        tau = (low + high) / 2
        low, high = (tau, high) if sum(max(r - tau, 0) for r in row) > 1 else (low, tau)
    return [max(r - low, 0) for r in row]


@torch.no_grad()
@pytest.mark.oracle("kan_attention")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "simplex": True}, {"causal": False, "frequencies": 1}])
def test_equals_loops(config):
    m, x = part("kan_attention", n_tokens=9, rank=3, **config), inputs()
    a, b, c = m.cosines.tolist(), m.sines.tolist(), m.out.tolist()

    def row(scores, t, seen, head):
        hidden = [
            sum(
                a[j][g][r] * math.cos((g + 1) * s) + b[j][g][r] * math.sin((g + 1) * s)
                for j, s in zip(seen, scores, strict=True)
                for g in range(m.frequencies)
            )
            for r in range(3)
        ]
        weights = [sum(c[j][r] * hidden[r] for r in range(3)) for j in seen]
        return nearest_on_simplex(weights) if m.simplex else weights

    close(m(x)[0], by_loops(m, x, row))


@torch.no_grad()
@pytest.mark.oracle("kan_attention")
def test_for_small_scores_sines_on_a_diagonal_are_the_scores_themselves():
    m, x = part("kan_attention", n_tokens=7, rank=7, frequencies=1, scale=1e-5), inputs()
    m.cosines.zero_()
    m.sines.copy_(torch.eye(7)[:, None])
    m.out.copy_(1e5 * torch.eye(7))
    expected = by_loops(m, x, lambda scores, *_: scores, lambda q, k: float(q @ k))
    close(m(x)[0], expected, 1e-6)


def test_rows_are_put_onto_the_simplex():
    torch.manual_seed(0)
    rows = torch.randn(50, 8, dtype=torch.float64, requires_grad=True)
    visible = torch.rand(50, 8) > 0.3
    visible[:, 0] = True
    weights = onto_simplex(rows, visible)
    close(weights.sum(-1), torch.ones(50).double())
    assert (weights >= 0).all()
    assert not weights[~visible].any()
    weights.square().sum().backward()
    assert rows.grad.isfinite().all()


def test_a_longer_text_is_refused_also_token_by_token():
    m = KANAttention(D, 2, n_tokens=4)
    with pytest.raises(UserError, match="n_tokens=4"):
        m(torch.randn(1, 5, D))
    _, state = m(torch.randn(1, 4, D))
    with pytest.raises(UserError, match="was given 5"):
        m(torch.randn(1, 1, D), state)
    with pytest.raises(ValueError, match="rank"):
        KANAttention(D, 2, n_tokens=4, rank=0)
