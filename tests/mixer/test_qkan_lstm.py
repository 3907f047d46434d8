"""QKAN-LSTM against loops over two-by-two matrices, the circuits of the feed-forward, and torch's LSTM in the limit."""

import cmath
import math

import pytest
import torch

from layersmith.ffn.shared.daruan import Daruan
from layersmith.mixer.qkan_lstm import QKANLSTM, measured
from tests.mixer.by_steps import sigmoid


def circuit(p: float, angles: list[list[float]], weights: list[float]) -> float:
    """<Z> of the circuit, by its gates on two complex amplitudes."""

    def about_z(state, angle):
        return [cmath.exp(-0.5j * angle) * state[0], cmath.exp(0.5j * angle) * state[1]]

    def about_y(state, angle):
        c, s = math.cos(angle / 2), math.sin(angle / 2)
        return [c * state[0] - s * state[1], s * state[0] + c * state[1]]

    state = [1 / math.sqrt(2), 1 / math.sqrt(2)]
    for (first, second), weight in zip(angles, weights, strict=False):  # the last pair loads nothing
        state = about_z(about_y(about_z(state, first), second), weight * p)
    state = about_y(about_z(state, angles[-1][0]), angles[-1][1])
    return abs(state[0]) ** 2 - abs(state[1]) ** 2


def qkan_lstm_by_loops(m: QKANLSTM, x: torch.Tensor) -> torch.Tensor:
    width, rows = m.h.in_features, []
    h, c = torch.zeros(width, dtype=x.dtype), [0.0] * width
    angles, weights, scale = m.angles.tolist(), m.weights.tolist(), m.scale.tolist()
    for token in x:
        sums = (m.x(token) + m.h(h)).tolist()
        gates = [s * circuit(p, a, w) for p, a, w, s in zip(sums, angles, weights, scale, strict=True)]
        i, f, g, o = (gates[k * width : (k + 1) * width] for k in range(4))
        c = [sigmoid(f[n]) * c[n] + sigmoid(i[n]) * math.tanh(g[n]) for n in range(width)]
        h = torch.tensor([sigmoid(o[n]) * math.tanh(c[n]) for n in range(width)], dtype=x.dtype)
        rows.append(m.o(h))
    return torch.stack(rows)


def part(reps: int) -> QKANLSTM:
    torch.manual_seed(0)
    m = QKANLSTM(5, 3, reps).double()
    with torch.no_grad():
        for parameter in (m.angles, m.weights, m.scale):
            parameter.add_(torch.randn_like(parameter))
    return m


@pytest.mark.oracle("qkan_lstm")
@torch.no_grad()
@pytest.mark.parametrize("reps", [1, 3])
def test_equals_loops(reps):
    m, x = part(reps), torch.randn(2, 6, 5, dtype=torch.float64)
    want = torch.stack([qkan_lstm_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_circuits_are_those_of_the_feed_forward():
    torch.manual_seed(0)
    theirs, p = Daruan(4, 1, reps=3).double(), torch.randn(6, 4, dtype=torch.float64)
    theirs.weights.normal_()
    ours = measured(p, theirs.angles[:, 0], theirs.weights[:, 0])
    torch.testing.assert_close(ours, theirs(p)[..., 0], atol=1e-12, rtol=0)


@pytest.mark.oracle("qkan_lstm")
@torch.no_grad()
def test_with_small_frequencies_it_is_an_lstm():
    m, x, small = part(1), torch.randn(2, 9, 5, dtype=torch.float64), 1e-4
    m.angles.copy_(torch.tensor([[0.0, 0.0], [-math.pi / 2, -math.pi / 2]], dtype=x.dtype))  # phi(p) = sin(w p)
    m.weights.fill_(small)
    m.scale.fill_(1 / small)
    plain = torch.nn.LSTM(5, 3, batch_first=True).double()
    plain.weight_ih_l0.copy_(m.x.weight)
    plain.weight_hh_l0.copy_(m.h.weight)
    plain.bias_ih_l0.copy_(m.x.bias)
    plain.bias_hh_l0.zero_()
    y, state = m(x)
    want, (h, c) = plain(x)
    torch.testing.assert_close(y, m.o(want), atol=1e-7, rtol=0)
    torch.testing.assert_close(state["h"], h[0], atol=1e-7, rtol=0)
    torch.testing.assert_close(state["c"], c[0], atol=1e-7, rtol=0)


@torch.no_grad()
def test_padding_is_no_step():
    m, x, mask = part(2), torch.randn(2, 9, 5, dtype=torch.float64), torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 3, 4, 8]] = False
    mask[1] = False
    y, state = m(x, mask=mask)
    alone, last = m(x[:1, mask[0]])
    torch.testing.assert_close(y[:1, mask[0]], alone, atol=1e-12, rtol=0)
    for name in ("h", "c"):
        torch.testing.assert_close(state[name][:1], last[name], atol=1e-12, rtol=0)
        assert not state[name][1].any()
