"""The Legendre memory against float64 loops, the convolution of the paper, and what it is a memory of."""

import pytest
import torch

from layersmith.mixer.lmu import LMU, legendre_tables


def discretised(n, theta):
    """Abar, Bbar by the series of the matrix exponential, A and B entry by entry."""
    a = [[(2 * i + 1) * (-1 if i < j else (-1) ** (i - j + 1)) / theta for j in range(n)] for i in range(n)]
    a = torch.tensor(a, dtype=torch.float64)
    b = torch.tensor([(2 * i + 1) * (-1) ** i / theta for i in range(n)], dtype=torch.float64)
    power, held, term = torch.eye(n, dtype=torch.float64), torch.zeros(n, n, dtype=torch.float64), None
    term = torch.eye(n, dtype=torch.float64)
    for k in range(1, 60):
        held = held + term / k  # sum A^(k-1) / k!
        term = term @ a / k
        power = power + term
    return power, held @ b


@pytest.mark.oracle("lmu")
@torch.no_grad()
@pytest.mark.parametrize("tokens", [1, 4, 11])
def test_equals_loops(tokens):
    torch.manual_seed(0)
    m = LMU(5, d_memory=4, theta=9.0, n_memories=2, chunk=4).double()
    abar, bbar = discretised(4, 9.0)
    x = torch.randn(2, tokens, 5, dtype=torch.float64)
    for row, got in zip(x, m(x)[0], strict=True):
        memory = torch.zeros(2, 4, dtype=torch.float64)
        for t, token in enumerate(row):
            u = m.u(token).relu()
            memory = torch.stack([abar @ memory[k] + bbar * u[k] for k in range(2)])
            want = m.o(torch.cat((memory.flatten(), token))).relu()
            torch.testing.assert_close(got[t], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("lmu")
@torch.no_grad()
def test_equals_the_fft_convolution_of_the_paper():
    torch.manual_seed(0)
    m = LMU(5, d_memory=6, theta=20.0, chunk=16).double()
    u = torch.randn(3, 90, 1, dtype=torch.float64)
    memories, last = m._remember(u, u.new_zeros(3, 1, 6), torch.full((3,), 90))
    _, responses = legendre_tables(6, 20.0, 90, u.device)
    spectrum = torch.fft.rfft(responses.T, n=180) * torch.fft.rfft(u.mT, n=180)
    want = torch.fft.irfft(spectrum, n=180)[..., :90].mT
    torch.testing.assert_close(memories[:, :, 0], want, atol=1e-10, rtol=0)
    torch.testing.assert_close(last[:, 0], want[:, -1], atol=1e-10, rtol=0)


@pytest.mark.oracle("lmu")
@torch.no_grad()
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_it_remembers_the_window(share):
    """Read by the Legendre polynomials at 2 r - 1, the memory gives the signal r theta steps ago."""
    n, theta, tokens = 16, 100.0, 1000
    m = LMU(5, d_memory=n, theta=theta).double()
    time = torch.arange(tokens, dtype=torch.float64)
    signal = (time / 23).sin() + (time / 41).cos()
    memories, _ = m._remember(signal[None, :, None], torch.zeros(1, 1, n).double(), torch.tensor([tokens]))
    polynomials = [torch.ones(()), torch.tensor(2 * share - 1)]
    for i in range(1, n - 1):
        polynomials.append(((2 * i + 1) * (2 * share - 1) * polynomials[i] - i * polynomials[i - 1]) / (i + 1))
    read = memories[0, 200:, 0] @ torch.stack(polynomials).double()
    back = int(share * theta)
    assert (read - signal[200 - back : tokens - back]).square().mean().sqrt() < 0.06 * signal.std()


@torch.no_grad()
def test_the_state_is_that_of_the_last_real_token():
    torch.manual_seed(0)
    m = LMU(5, d_memory=4, theta=9.0, chunk=4).double()
    x, before = torch.randn(5, 9, 5, dtype=torch.float64), torch.randn(5, 1, 4, dtype=torch.float64)
    n = torch.tensor([0, 1, 4, 6, 9])
    _, state = m.mix(x, {"m": before}, n)
    for row in range(5):
        want = {"m": before[row : row + 1]}
        for t in range(int(n[row])):
            want = m.mix(x[row, t].view(1, 1, 5), want, None)[1]
        torch.testing.assert_close(state["m"][row], want["m"][0], atol=1e-12, rtol=0)


def test_bad_configs_are_refused():
    for theta in (0.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="theta must be a number of steps"):
            LMU(8, theta=theta)
