"""Quixer against dense matrices made of Kronecker products, a window of one token, and what a circuit has to be."""

import cmath
import math

import pytest
import torch

from layersmith.mixer.quixer import Quixer, circuit, expectations

X = torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128)
Y = torch.tensor([[0, -1j], [1j, 0]], dtype=torch.complex128)
Z = torch.tensor([[1, 0], [0, -1]], dtype=torch.complex128)
ONE = torch.tensor([[0, 0], [0, 1]], dtype=torch.complex128)
I = torch.eye(2, dtype=torch.complex128)  # noqa: E741 - the name of the identity


def together(gates):
    """The Kronecker product of one gate a qubit."""
    whole = torch.ones(1, 1, dtype=torch.complex128)
    for gate in gates:
        whole = torch.kron(whole, gate)
    return whole


def about(axis, angle):
    return math.cos(angle / 2) * I - 1j * math.sin(angle / 2) * axis  # the exponential of -i angle / 2 times the axis


def dense_circuit(angles: list[float], q: int):
    u = torch.eye(2**q, dtype=torch.complex128)
    for first, controls, ring in ((0, range(q - 1, -1, -1), 1), (2, [q - 1, *range(q - 1)], -1)):
        for j in range(q):
            u = together([about(Y, angles[first * q + j]) if i == j else I for i in range(q)]) @ u
        for number, j in enumerate(controls):
            target = (j + ring) % q
            off = together([I - ONE if i == j else I for i in range(q)])
            turn = about(X, angles[(first + 1) * q + number])
            on = together([ONE if i == j else turn if i == target else I for i in range(q)])
            u = (off + on) @ u
    return u


def quixer_by_matrices(m: Quixer, x: torch.Tensor) -> torch.Tensor:
    q, rows = m.qubits, []
    unitaries = [dense_circuit(row, q) for row in m.angles(x).tolist()]
    b = [complex(*pair) for pair in m.b.tolist()]
    size = max(1.0, sum(abs(weight) for weight in b))
    v = dense_circuit(m.last.tolist(), q)
    for t in range(len(x)):
        mixed = sum(b[i] / size * unitaries[t - i] for i in range(m.window) if t - i >= 0)
        s = sum(c * torch.linalg.matrix_power(mixed, k) for k, c in enumerate(m.c.tolist()))[:, 0]
        s = v @ (s / s.norm())
        row = []
        for pauli in (X, Y, Z):
            for j in range(q):
                row.append((s.conj() @ together([pauli if i == j else I for i in range(q)]) @ s).real)
        rows.append(torch.stack(row))
    return m.o(torch.stack(rows))


@pytest.mark.oracle("quixer")
@torch.no_grad()
@pytest.mark.parametrize("qubits", [2, 3])
def test_equals_dense_matrices(qubits):
    torch.manual_seed(0)
    m = Quixer(6, qubits, window=3, degree=2).double()
    for parameter in (m.b, m.c):
        parameter.normal_()
    x = torch.randn(2, 6, 6, dtype=torch.float64)
    want = torch.stack([quixer_by_matrices(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("quixer")
@torch.no_grad()
def test_circuits_are_unitary_and_expectations_those_of_states():
    torch.manual_seed(0)
    u = circuit(torch.randn(5, 16, dtype=torch.float64), 4)
    eye = torch.eye(16, dtype=u.dtype)
    torch.testing.assert_close(u @ u.mH, eye.expand_as(u), atol=1e-12, rtol=0)
    assert not torch.allclose(u[0], u[1])
    up = torch.zeros(16, dtype=u.dtype)
    up[0b0100] = cmath.exp(0.3j)  # the second qubit is 1, the others 0
    assert expectations(up, 4).round(decimals=12).tolist() == [0.0] * 8 + [1.0, -1.0, 1.0, 1.0]
    both = torch.zeros(4, dtype=u.dtype)
    both[0b00], both[0b01] = 1 / math.sqrt(2), 1j / math.sqrt(2)  # the second qubit along y
    assert expectations(both, 2).round(decimals=12).tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 0.0]


@torch.no_grad()
def test_tokens_before_the_window_do_not_count_and_padding_neither():
    torch.manual_seed(0)
    m = Quixer(6, 2, window=3).double()
    x = torch.randn(2, 9, 6, dtype=torch.float64)
    torch.testing.assert_close(m(x)[0][:, 8:], m(x[:, 6:])[0][:, 2:], atol=1e-12, rtol=0)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[0, [0, 3, 4, 8]] = False
    mask[1] = False
    y, state = m(x, mask=mask)
    alone, last = m(x[:1, mask[0]])
    torch.testing.assert_close(y[:1, mask[0]], alone, atol=1e-12, rtol=0)
    torch.testing.assert_close(state["angles"][:1], last["angles"], atol=1e-12, rtol=0)
    assert torch.isfinite(y).all()
    assert not state["angles"][1].any()


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="qubits"):
        Quixer(6, 9)
    with pytest.raises(ValueError, match="window"):
        Quixer(6, window=0)
