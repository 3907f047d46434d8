"""Bidirectional RWKV against the quadratic sum in float64."""

import math

import pytest
import torch

from layersmith.mixer.bi_rwkv import BiRWKV, shifted


def by_loops(m: BiRWKV, x: torch.Tensor) -> torch.Tensor:
    """All pairs of tokens for every feature of one sequence x (T, D)."""
    tokens, width = x.shape
    near = torch.zeros_like(x)
    for t in range(tokens):
        for c in range(width):
            s = t - 1 if c < (width + 1) // 2 else t + 1
            near[t, c] = x[s, c] if 0 <= s < tokens else 0.0
    r, k, v = ((mix * x + (1 - mix) * near) @ maps.weight.T for maps, mix in zip((m.r, m.k, m.v), m.mix, strict=True))
    out = torch.zeros_like(x)
    for t in range(tokens):
        for c in range(width):
            top = norm = 0.0
            for s in range(tokens):
                fading = float(m.fading[c]) / tokens
                exponent = m.own[c] if s == t else -(abs(t - s) - 1) * fading
                weight = math.exp(float(k[s, c] + exponent))
                top, norm = top + weight * float(v[s, c]), norm + weight
            out[t, c] = top / norm / (1 + math.exp(-float(r[t, c])))
    return m.o(out)


@pytest.mark.oracle("bi_rwkv")
@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 2, 9])
def test_equals_the_quadratic_sum(tokens):
    torch.manual_seed(0)
    m = BiRWKV(5).double()
    for parameter in (m.own, m.mix):
        parameter.normal_()
    m.fading.copy_(torch.tensor([-5.0, -0.3, 0.0, 2.0, 20.0]))  # far tokens may count for more, too
    x = torch.randn(2, tokens, 5, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("bi_rwkv")
@torch.no_grad()
def test_without_fading_it_is_one_softmax_over_the_sequence():
    torch.manual_seed(0)
    m = BiRWKV(6).double()
    m.fading.zero_()
    m.mix.fill_(1.0)
    x = torch.randn(1, 20, 6, dtype=torch.float64)
    mean = (m.k(x).softmax(1) * m.v(x)).sum(1, keepdim=True)
    torch.testing.assert_close(m(x)[0], m.o(m.r(x).sigmoid() * mean), atol=1e-12, rtol=0)


def test_shift_by_hand():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])[None]
    assert shifted(x).tolist() == [[[0.0, 4.0], [1.0, 6.0], [3.0, 0.0]]]


def test_a_state_is_refused():
    with pytest.raises(ValueError, match="is not causal here"):
        BiRWKV(4)(torch.zeros(1, 3, 4), state={})
