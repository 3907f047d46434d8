"""sLSTM against loops without a stabiliser, a weighted mean in the limit, and padding."""

import math

import pytest
import torch

from layersmith.mixer.slstm import SLSTM
from tests.mixer.by_steps import sigmoid


def by_loops(m: SLSTM, x: torch.Tensor) -> torch.Tensor:
    """One sequence x (T, D), cell by cell, exponentials as they stand."""
    width, size = x.shape[1], x.shape[1] // m.n_heads
    recur = m.h.tolist()
    h, c, n, rows = [0.0] * width, [0.0] * width, [0.0] * width, []
    for token in x:
        given, new = m.x(token).tolist(), list(h)
        for cell in range(width):
            head, place = divmod(cell, size)
            sums = []
            for gate in range(4):
                back = sum(h[head * size + j] * recur[head][j][gate * size + place] for j in range(size))
                sums.append(given[gate * width + cell] + back)
            i, f, z, o = sums
            c[cell] = sigmoid(f) * c[cell] + math.exp(i) * math.tanh(z)
            n[cell] = sigmoid(f) * n[cell] + math.exp(i)
            new[cell] = sigmoid(o) * c[cell] / n[cell]
        h, row = new, []
        for head in range(m.n_heads):
            own = h[head * size : (head + 1) * size]
            mean = sum(own) / size
            spread = math.sqrt(sum((e - mean) ** 2 for e in own) / size + m.eps)
            row += [(e - mean) / spread for e in own]
        rows.append(torch.tensor(row, dtype=x.dtype) * m.weight)
    return torch.stack(rows)


@torch.no_grad()
def part(d_model: int = 6, n_heads: int = 2) -> SLSTM:
    torch.manual_seed(0)
    m = SLSTM(d_model, n_heads).double()
    for parameter in m.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    return m


@pytest.mark.oracle("slstm")
@torch.no_grad()
@pytest.mark.parametrize("n_heads", [1, 3])
def test_equals_loops(n_heads):
    m, x = part(6, n_heads), torch.randn(2, 9, 6, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("slstm")
@torch.no_grad()
def test_without_recurrence_and_forgetting_it_is_a_softmax_over_the_past():
    """Write gates are then the scores: c / n is the mean of tanh(z) weighted by softmax over the tokens so far."""
    m, x = part(), torch.randn(2, 12, 6, dtype=torch.float64)
    m.h.zero_()
    m.x.weight[6:12].zero_()
    m.x.bias[6:12] = 1e3
    i, _, z, o = m.x(x).chunk(4, -1)
    rows = []
    for t in range(1, 13):
        rows.append(o[:, t - 1].sigmoid() * (i[:, :t].softmax(1) * z[:, :t].tanh()).sum(1))
    want = m.write(torch.stack(rows, 1))
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@torch.no_grad()
def test_gates_far_beyond_float32_are_finite_and_late_tokens_outweigh_early_ones():
    torch.manual_seed(0)
    m = SLSTM(8, 2)
    m.x.weight[:8] *= 400.0
    x = torch.randn(1, 30, 8)
    y, state = m(x)
    assert y.isfinite().all()
    assert state["m"].abs().max() > 100
    want = m.double()(x.double())[0]
    torch.testing.assert_close(y.double(), want, atol=2e-2, rtol=0)


@torch.no_grad()
def test_padding_is_no_step():
    m, x, mask = part(), torch.randn(2, 9, 6, dtype=torch.float64), torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 3, 4, 8]] = False
    mask[1] = False
    y, state = m(x, mask=mask)
    alone, last = m(x[:1, mask[0]])
    torch.testing.assert_close(y[:1, mask[0]], alone, atol=1e-12, rtol=0)
    for name in ("h", "c", "n", "m"):
        torch.testing.assert_close(state[name][:1], last[name], atol=1e-12, rtol=0)
    assert not state["n"][1].any()
    again, _ = m(x[:, :3], state)
    torch.testing.assert_close(again[1:], m(x[1:, :3])[0], atol=1e-12, rtol=0)


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="not a multiple of n_heads=3"):
        SLSTM(8, 3)
