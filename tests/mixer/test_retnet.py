"""Retention against float64 loops of the quadratic form, and the limits of its rates."""

import math

import pytest
import torch

from layersmith.mixer.retnet import RetNet
from layersmith.mixer.softmax import SoftmaxAttention


def rotated(vector, position, theta):
    """RoPE of one head's vector, halves paired."""
    half = len(vector) // 2
    out = vector.clone()
    for i in range(half):
        angle = position * theta ** (-i / half)
        a, b = float(vector[i]), float(vector[i + half])
        out[i] = a * math.cos(angle) - b * math.sin(angle)
        out[i + half] = b * math.cos(angle) + a * math.sin(angle)
    return out


def by_loops(m: RetNet, x: torch.Tensor) -> torch.Tensor:
    """y_t = sum_s g^(t - s) (q_t . k_s) v_s / sqrt(d), normalised and gated, for one sequence x (T, D)."""
    d, group = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(q.shape[1] // d):
        own, shared, rate = (
            slice(h * d, h * d + d),
            slice(h // group * d, h // group * d + d),
            1 - 2.0 ** (-5 - h // group),
        )
        for t in range(len(x)):
            read = torch.zeros(d, dtype=x.dtype)
            for s in range(t + 1):
                q_t, k_s = q[t, own], k[s, shared]
                if m.rope_theta is not None:
                    q_t, k_s = rotated(q_t, t, m.rope_theta), rotated(k_s, s, m.rope_theta)
                read += rate ** (t - s) * float(q_t @ k_s) / math.sqrt(d) * v[s, shared]
            out[t, own] = read / math.sqrt(float(read @ read) / d + m.norm.eps)
    if m.gate is not None:
        z = m.gate(x)
        out = out * z / (1 + (-z).exp())
    return m.o(out)


@pytest.mark.oracle("retnet")
@torch.no_grad()
@pytest.mark.parametrize(
    "settings", [{}, {"n_kv_heads": 2, "rope_theta": None}, {"out_gate": False, "rope_theta": 7.0}]
)
def test_equals_loops(settings):
    torch.manual_seed(0)
    m = RetNet(12, 4, head_dim=4, chunk=4, **settings).double()
    x = torch.randn(2, 10, 12, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-11, rtol=0)


@pytest.mark.oracle("retnet")
@torch.no_grad()
def test_one_token_reads_its_own_value():
    """The norm takes the score's size away and leaves its sign."""
    torch.manual_seed(0)
    m = RetNet(8, 1, out_gate=False, eps=0.0).double()
    x = torch.randn(3, 1, 8, dtype=torch.float64)
    sign = (m.q(x) * m.k(x)).sum(-1, keepdim=True).sign()
    torch.testing.assert_close(m(x)[0], m.o(sign * m.norm(m.v(x))), atol=1e-12, rtol=0)


def test_rates_are_those_of_the_paper_even_where_float32_rounds_them_to_one():
    m = RetNet(64, 32)
    rates = m.log_decay(torch.zeros(1, 3, 64))
    assert rates.shape == (1, 32, 3, 1)
    assert float(rates[0, 0, 0, 0]) == pytest.approx(math.log(31 / 32))
    assert float(rates[0, 31, 2, 0]) == pytest.approx(-(2.0**-36))


def test_softmax_weights_can_be_copied_in():
    softmax = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0, qk_norm=True, bias=True)
    m = RetNet(16, 4, n_kv_heads=2, rope_theta=100.0, qk_norm=True, bias=True, out_gate=False)
    m.load_state_dict(softmax.state_dict())


def test_memory_does_not_grow():
    m = RetNet(16, 4, n_kv_heads=2)
    assert m.state_bytes(24) == m.state_bytes(1000) == 4 * 2 * 4 * 4 + 8


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="chunk must be a positive integer"):
        RetNet(16, 4, chunk=0)
