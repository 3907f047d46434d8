"""Logic gates against their truth tables, mixtures by loops, and the circuit that a trained part becomes."""

import math
import operator

import pytest
import torch

from layersmith.ffn.logic_gates import GATES, LogicGates, random_wires

#: What the gates are called, in their order, as functions of two booleans.
NAMED = [
    lambda a, b: False,
    operator.and_,
    lambda a, b: a and not b,
    lambda a, b: a,
    lambda a, b: b and not a,
    lambda a, b: b,
    operator.xor,
    operator.or_,
    lambda a, b: not (a or b),
    lambda a, b: a == b,
    lambda a, b: not b,
    lambda a, b: a or not b,
    lambda a, b: not a,
    lambda a, b: b or not a,
    lambda a, b: not (a and b),
    lambda a, b: True,
]


def part(**config) -> LogicGates:
    torch.manual_seed(0)
    m = LogicGates(**{"d_model": 3, "d_hidden": 12, "layers": 2, "thresholds": 4, **config}).double()
    for parameter in m.parameters():
        torch.nn.init.normal_(parameter)
    return m


@pytest.mark.oracle("logic_gates")
@pytest.mark.parametrize("gate", range(16))
def test_gates_are_their_truth_tables_at_the_corners(gate):
    for a in (0, 1):
        for b in (0, 1):
            c = GATES[gate]
            value = c[0] + c[1] * a + c[2] * b + c[3] * a * b
            assert value == NAMED[gate](bool(a), bool(b)) == int(format(gate, "04b")[2 * a + b])


@pytest.mark.oracle("logic_gates")
@pytest.mark.parametrize("tau", [1.0, 2.5])
def test_by_loops(tau):
    m = part(tau=tau)
    x = torch.randn(2, 4, 3, dtype=torch.double)
    for token, y in zip(x.reshape(-1, 3).tolist(), m(x).reshape(-1, 3).tolist(), strict=True):
        value = [
            1 / (1 + math.exp(-m.slope[i, k].item() * (token[i] - m.threshold[i, k].item())))
            for i in range(3)
            for k in range(4)
        ]
        for layer in range(2):
            new = []
            for j in range(12):
                weights = [math.exp(w) for w in m.gates[layer][j].tolist()]
                a, b = (value[i] for i in m.wires[layer, :, j].tolist())
                soft = 0.0
                for gate in range(16):  # each gate as the interpolation of its truth table
                    corners = [
                        NAMED[gate](bool(p), bool(q)) * (p * a + (1 - p) * (1 - a)) * (q * b + (1 - q) * (1 - b))
                        for p in (0, 1)
                        for q in (0, 1)
                    ]
                    soft += weights[gate] / sum(weights) * sum(corners)
                new.append(soft)
            value = new
        expected = [m.scale[d].item() / tau * sum(value[4 * d : 4 * d + 4]) + m.shift[d].item() for d in range(3)]
        assert y == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("logic_gates")
def test_hardened_is_the_written_out_circuit_bit_for_bit():
    m = part(layers=3)
    hard, circuit = m.hardened(), m.circuit()
    assert hard.spec() == {**m.spec(), "hard": True}
    x = torch.randn(50, 3, dtype=torch.double)
    for token, neurons in zip(x.tolist(), hard.neurons(x).tolist(), strict=True):
        bits = [token[i] > m.threshold[i, k].item() for i in range(3) for k in range(4)]
        for layer in circuit:
            bits = [NAMED[gate](bits[first], bits[second]) for gate, first, second in layer]
        assert [bool(v) for v in neurons] == bits
        assert set(neurons) <= {0.0, 1.0}


@pytest.mark.oracle("logic_gates")
def test_certain_gates_and_steep_thresholds_are_the_hardened_part():
    m = part()
    with torch.no_grad():
        m.slope.fill_(1e5)
        for weight in m.gates:
            weight.mul_(1e3)
    x = torch.randn(40, 3, dtype=torch.double)
    torch.testing.assert_close(m(x), m.hardened()(x), rtol=0, atol=1e-6)


def test_learns_a_gate():
    torch.manual_seed(0)
    m = LogicGates(2, 16, layers=2, thresholds=1)
    x = torch.randint(0, 2, (256, 2)) * 2.0 - 1
    target = (x[:, 0] * x[:, 1] < 0).float()[:, None].expand(-1, 2)  # XOR
    optimizer = torch.optim.Adam(m.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (m(x) - target).square().mean().backward()
        optimizer.step()
    assert (m(x) - target).square().mean() < 0.05
    assert ((m.hardened()(x) > 0.5) == (target > 0.5)).float().mean() > 0.9


def test_wires_use_every_input():
    torch.manual_seed(0)
    counts = random_wires(10, 15).flatten().bincount(minlength=10)
    assert counts.tolist() == [3] * 10


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"d_hidden": 13}, "d_hidden=13 must be a multiple of d_model=3"),
        ({"thresholds": 9}, "cannot read all of the d_model \\* thresholds = 27 bits"),
        ({"tau": 0.0}, "tau must be positive"),
        ({"layers": 0}, "layers must be a positive integer"),
    ],
)
def test_bad_configuration_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        part(**config)
