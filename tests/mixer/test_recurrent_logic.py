"""Recurrent logic gates: truth tables, loops in float64, and the parity of a long text by one XOR."""

import math

import pytest
import torch

from layersmith.ffn.logic_gates import GATES
from layersmith.mixer.recurrent_logic import RecurrentLogic, gate_table
from tests.mixer.by_steps import sigmoid


def gate(number: int, a: float, b: float) -> float:
    """The relaxation of a gate written as an expectation: a and b are the chances that two independent bits are set."""
    digits = [number >> shift & 1 for shift in (3, 2, 1, 0)]
    chances = [(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b]
    return sum(digit * chance for digit, chance in zip(digits, chances, strict=True))


def recurrent_logic_by_loops(m: RecurrentLogic, x: torch.Tensor) -> torch.Tensor:
    state, rows = [0.0] * m.wires.shape[-1], []
    for token in x.tolist():
        value = [
            sigmoid(float(slope) * (channel - float(threshold)))
            for channel, slopes, thresholds in zip(token, m.slope, m.threshold, strict=True)
            for slope, threshold in zip(slopes, thresholds, strict=True)
        ] + state
        for weights, (first, second) in zip(m.gates, m.wires.tolist(), strict=True):
            below, value = value, []
            for weight, a, b in zip(weights.tolist(), first, second, strict=True):
                total = sum(math.exp(w) for w in weight)
                value.append(sum(math.exp(w) / total * gate(g, below[a], below[b]) for g, w in enumerate(weight)))
        state, group = value, len(value) // len(token)
        rows.append([sum(state[d * group : (d + 1) * group]) / m.tau for d in range(len(token))])
    return torch.tensor(rows, dtype=x.dtype) * m.scale + m.shift


@pytest.mark.oracle("recurrent_logic")
@torch.no_grad()
def test_equals_loops():
    torch.manual_seed(0)
    m = RecurrentLogic(3, 4, layers=2, thresholds=2, tau=1.5).double()
    for parameter in m.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 7, 3, dtype=torch.float64)
    want = torch.stack([recurrent_logic_by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


def test_gates_have_their_truth_tables():
    table = gate_table(torch.zeros(1))
    assert table.tolist() == [[float(c) for c in row] for row in GATES]  # those of the feed-forward of gates
    for number, (c_0, c_1, c_2, c_3) in enumerate(table.tolist()):
        for a in (0, 1):
            for b in (0, 1):
                assert c_0 + c_1 * a + c_2 * b + c_3 * a * b == number >> (3 - 2 * a - b) & 1


@pytest.mark.oracle("recurrent_logic")
@torch.no_grad()
def test_one_running_xor_tells_the_parity_of_a_thousand_bits():
    torch.manual_seed(0)
    m = RecurrentLogic(1, 1, thresholds=1)
    m.wires.copy_(torch.tensor([[[0], [1]]]))  # the bit and the state
    m.gates[0].copy_(torch.nn.functional.one_hot(torch.tensor([6]), 16))
    bits = torch.randint(0, 2, (3, 1000, 1))
    y, state = m.hardened()(2.0 * bits - 1)
    assert torch.equal(y.round().long(), bits.cumsum(1) % 2)
    assert state["h"].shape == (3, 1)


@torch.no_grad()
def test_hard_equals_soft_where_choices_and_bits_are_sure():
    torch.manual_seed(0)
    m = RecurrentLogic(4, 2, layers=2, thresholds=2).double()
    for weight in m.gates:
        weight.mul_(1e4)
    m.slope.fill_(1e6)
    x = torch.randn(2, 30, 4, dtype=torch.float64)
    torch.testing.assert_close(m.hardened()(x)[0], m(x)[0], atol=1e-9, rtol=0)


@torch.no_grad()
def test_padding_is_no_step():
    torch.manual_seed(0)
    m = RecurrentLogic(4, 2).double()
    x, mask = torch.randn(2, 9, 4, dtype=torch.float64), torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 3, 4, 8]] = False
    mask[1] = False
    y, state = m(x, mask=mask)
    alone, last = m(x[:1, mask[0]])
    torch.testing.assert_close(y[:1, mask[0]], alone, atol=1e-12, rtol=0)
    torch.testing.assert_close(state["h"][:1], last["h"], atol=1e-12, rtol=0)
    assert not state["h"][1].any()


def test_bad_configs_are_refused():
    for wrong, message in (({"neurons": 0}, "neurons"), ({"thresholds": 3}, "thresholds"), ({"tau": 0.0}, "tau")):
        with pytest.raises(ValueError, match=message):
            RecurrentLogic(**{"d_model": 4, "neurons": 2, **wrong})
