"""Shift-compare against loops in float64, the text without context, padding, and what it cannot see."""

import pytest
import torch

from layersmith.mixer.shift_compare import ShiftCompare


def part(**config) -> ShiftCompare:
    torch.manual_seed(0)
    m = ShiftCompare(6, **config).double()
    if m.gain is not None:
        torch.nn.init.normal_(m.gain)
    return m


@pytest.mark.oracle("shift_compare")
@torch.no_grad()
@pytest.mark.parametrize("context", [True, False])
def test_equals_loops(context):
    m, x = part(d_inner=5, context=context), torch.randn(2, 7, 6, dtype=torch.float64)
    for row, y in zip(x, m(x)[0], strict=True):
        u = m.u(row).tolist()
        for t in range(7):
            before = u[t - 1] if t else [0.0] * 5
            mean = [sum(u[s][c] for s in range(t + 1)) / (t + 1) if context else 0.0 for c in range(5)]
            gain = m.gain.tolist() if context else [0.0] * 5
            mixed = [max(u[t][c], before[c]) + gain[c] * mean[c] for c in range(5)]
            torch.testing.assert_close(y[t], m.o(torch.tensor(mixed, dtype=x.dtype)), atol=1e-12, rtol=0)


@pytest.mark.oracle("shift_compare")
@torch.no_grad()
def test_without_context_nothing_but_the_token_before_counts():
    m, x = part(context=False), torch.randn(1, 9, 6, dtype=torch.float64)
    other = torch.cat((torch.randn(1, 6, 6, dtype=torch.float64), x[:, 6:]), 1)
    y, changed = m(x)[0], m(other)[0]
    assert torch.equal(y[:, 7:], changed[:, 7:])
    assert not torch.allclose(y[:, 6], changed[:, 6])


@torch.no_grad()
def test_padding_is_neither_compared_with_nor_counted():
    m, x = part(), torch.randn(2, 10, 6, dtype=torch.float64)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, [0, 3, 4, 9]] = False
    mask[1] = False
    y, state = m(x, mask=mask)
    alone, last = m(x[:1, mask[0]])
    torch.testing.assert_close(y[:1, mask[0]], alone, atol=1e-12, rtol=0)
    for name in ("last", "sum", "count"):
        torch.testing.assert_close(state[name][:1], last[name], atol=1e-12, rtol=0)
    assert state["count"].tolist() == [6, 0]
    more = torch.randn(2, 2, 6, dtype=torch.float64)
    assert torch.isfinite(m(more, state)[0]).all()
    torch.testing.assert_close(m(more, state)[0][1:], m(more[1:])[0], atol=1e-12, rtol=0)
