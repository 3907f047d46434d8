"""S4D against float64 loops over tokens and oscillations, the kernel of the paper, and its limits."""

import cmath
import math

import pytest
import torch

from layersmith.mixer.s4d import S4D
from tests.mixer.by_steps import gelu, sigmoid


def made(**settings):
    torch.manual_seed(0)
    return S4D(5, **{"d_state": 6, "chunk": 4, **settings}).double()


def oscillations(m: S4D, channel: int):
    """(dt a, 2 c (exp(dt a) - 1) / a) of a channel's oscillations, as complex numbers."""
    dt = math.exp(float(m.log_dt[channel]))
    for n in range(m.c.shape[1]):
        a = complex(-math.exp(float(m.log_damping[channel, n])), float(m.frequency[channel, n]))
        yield dt * a, 2 * complex(*m.c[channel, n].tolist()) * (cmath.exp(dt * a) - 1) / a


def s4d_by_loops(m: S4D, x: torch.Tensor) -> torch.Tensor:
    """The whole layer for one sequence x (T, D), one number at a time."""
    columns = []
    for d, signal in enumerate(x.T.tolist()):
        column = [float(m.d[d]) * u for u in signal]
        for step, read in oscillations(m, d):
            h = 0j
            for t, u in enumerate(signal):
                h = cmath.exp(step) * h + u
                column[t] += (read * h).real
        columns.append([gelu(y) for y in column])
    value, gate = m.o(torch.tensor(columns, dtype=x.dtype).T).chunk(2, dim=-1)
    return value * gate.apply_(sigmoid)


@pytest.mark.oracle("s4d")
@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 3, 4, 11])
def test_equals_loops(tokens):
    m = made()
    x = torch.randn(2, tokens, 5, dtype=torch.float64)
    want = torch.stack([s4d_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("s4d")
@torch.no_grad()
@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_an_impulse_gives_the_kernel_of_the_paper(chunk):
    m = made(chunk=chunk)
    u = torch.zeros(1, 50, 5, dtype=torch.float64)
    u[:, 0] = 1
    y, _ = m._filter(u, u.new_zeros(1, 5, 6), torch.tensor([50]))
    for d in range(5):
        kernel = [sum((read * cmath.exp(step * t)).real for step, read in oscillations(m, d)) for t in range(50)]
        torch.testing.assert_close(y[0, :, d], torch.tensor(kernel, dtype=torch.float64), atol=1e-12, rtol=0)


@pytest.mark.oracle("s4d")
@torch.no_grad()
def test_a_constant_input_settles_where_the_continuous_system_does():
    """Exact for inputs held over a step: in the limit 2 Re(-c / a), however large the steps are."""
    m = made()
    for log_dt in (-1.0, 1.0):
        m.log_dt.fill_(log_dt)
        y, _ = m._filter(torch.ones(1, 400, 5).double(), torch.zeros(1, 5, 6).double(), torch.tensor([400]))
        a = torch.complex(-m.log_damping.exp(), m.frequency)
        want = (-2 * torch.view_as_complex(m.c) / a).real.sum(1)
        torch.testing.assert_close(y[0, -1], want, atol=1e-10, rtol=0)


@torch.no_grad()
def test_the_state_is_that_of_the_last_real_token():
    m = made()
    x = torch.randn(6, 9, 5, dtype=torch.float64)
    n = torch.tensor([0, 1, 4, 5, 8, 9])
    _, state = m.mix(x, {"h": torch.randn(6, 5, 6, dtype=torch.float64)}, n)
    torch.manual_seed(1)
    before = torch.randn(6, 5, 6, dtype=torch.float64)
    _, state = m.mix(x, {"h": before}, n)
    for row in range(6):
        want = before[row]
        for t in range(int(n[row])):
            want = m.mix(x[row, t].view(1, 1, 5), {"h": want[None]}, None)[1]["h"][0]
        torch.testing.assert_close(state["h"][row], want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_float32_stays_close_over_long_texts():
    m = made(chunk=64)
    x = torch.randn(1, 2000, 5, dtype=torch.float64)
    want = m(x)[0]
    assert (m.float()(x.float())[0] - want).abs().max() < 1e-4


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="d_state=5 must be even"):
        S4D(8, d_state=5)
