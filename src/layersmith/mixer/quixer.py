"""Quixer: each token is a small quantum circuit; a window of them is added up, and a polynomial of the sum acts.

    U_t = circuit(W_theta x_t)                          a unitary of 2^q x 2^q, one for each token
    M_t = sum_{i < window} b_i U_{t-i}                  b learned and complex, sum |b_i| <= 1
    s_t = normalised sum_{k <= degree} c_k M_t^k |0>    c learned
    y_t = W_o [<X_j>, <Y_j>, <Z_j>]_j  of the state V s_t        V a circuit with angles of its own

The circuit: turns about y of all qubits, turns about x controlled by a neighbour, around the ring; both again, the
other way round. What a quantum computer would do by post-selection (sum) and singular value transformation
(polynomial) is computed on the whole state, exactly. Tokens before the start add nothing.

Shapes: x (B, T, D) -> angles (B, T, 4 q) -> U (B, T, 2^q, 2^q) -> s (B, T, 2^q) -> 3 q expectations -> y (B, T, D).
State: angles (B, window - 1, 4 q + 1) of the last tokens in at least float32; the last column is 0 before the start.

Paper: Khatri et al. 2024, "Quixer: A Quantum Transformer Model". Confirmed in a public port of the authors' code: the
circuit (number 14 of Sim et al. 2019, arXiv 1905.10876) and the order of its gates, complex b with sum |b_i| = 1, the
polynomial, the second circuit, and the 3 q expectations.
Differs from the paper: the window moves on with each token, so that every token has an output; a linear map in place of
its classifier; b is made smaller only where it is too large.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.packed import PackedMixer, only_real
from layersmith.mixer.shared.short_conv import with_past

#: A state of more qubits than this is too large to be simulated for every token.
MOST_QUBITS = 8


class Quixer(PackedMixer):
    """A window of token circuits, added up.

    d_model   width of the residual stream
    qubits    q; matrices are of 2^q x 2^q
    window    tokens whose circuits are added, the token itself included
    degree    of the polynomial
    """

    name = "quixer"

    def __init__(self, d_model: int, qubits: int = 4, window: int = 16, degree: int = 3):
        super().__init__()
        require_positive(Quixer, d_model=d_model, qubits=qubits, window=window, degree=degree)
        if qubits > MOST_QUBITS:
            raise ValueError(f"Quixer: qubits={qubits} make matrices of 2^{qubits} rows; at most {MOST_QUBITS}.")
        self.qubits, self.window = qubits, window
        self.angles = nn.Linear(d_model, 4 * qubits)
        # Real and imaginary parts. All tokens weigh alike at the start, and so do all powers.
        self.b = nn.Parameter(torch.stack((torch.ones(window), torch.zeros(window)), -1) / window)
        self.c = nn.Parameter(torch.ones(degree + 1) / (degree + 1))
        self.last = nn.Parameter(torch.randn(4 * qubits))
        self.o = nn.Linear(3 * qubits, d_model)

    def mix(self, x: Tensor, state: State | None, n_real: Tensor | None) -> tuple[Tensor, State | None]:
        with full_precision(x):
            angles = F.linear(precise(x), *(precise(p) for p in (self.angles.weight, self.angles.bias)))
            # A last column tells real tokens from what stands before the start.
            marked = F.pad(only_real(angles, n_real), (0, 1), value=1.0)
            inputs, last = with_past(marked, None if state is None else state["angles"].mT, self.window - 1, n_real)
            unitaries = circuit(inputs.mT[..., :-1], self.qubits) * inputs.mT[..., -1, None, None]
            b = torch.view_as_complex(precise(self.b))
            b = b / b.abs().sum().clamp_min(1)
            sums = torch.zeros_like(unitaries[:, : x.shape[1]])
            for back, weight in enumerate(b):
                sums = sums + weight * unitaries[:, self.window - 1 - back :][:, : x.shape[1]]
            y = self._measured(sums)
        return self.o(y.to(x.dtype)), {"angles": last.mT}

    def _measured(self, sums: Tensor) -> Tensor:
        """(B, T, 3 q): the expectations, from M (B, T, 2^q, 2^q)."""
        c = precise(self.c)
        power = torch.zeros_like(sums[..., 0])
        power[..., 0] = 1.0  # |0>
        s = c[0] * power
        for weight in c[1:]:
            power = (sums @ power[..., None]).squeeze(-1)
            s = s + weight * power
        s = s / s.abs().square().sum(-1, keepdim=True).clamp_min(torch.finfo(c.dtype).tiny).sqrt()
        v = circuit(precise(self.last), self.qubits)
        return expectations((v @ s[..., None]).squeeze(-1), self.qubits)


def circuit(angles: Tensor, qubits: int) -> Tensor:
    """(..., 2^q, 2^q) complex: the unitary of these angles (..., 4 q)."""
    size = 2**qubits
    eye = torch.eye(size, dtype=angles.dtype, device=angles.device).to(_complex(angles))
    u = eye.expand(*angles.shape[:-1], size, size)
    layers = angles.unflatten(-1, (4, qubits))
    last = qubits - 1
    forth, back = [*range(last, -1, -1)], [last, *range(last)]
    for turn, controls, ring in ((0, forth, 1), (2, back, -1)):
        for qubit in range(qubits):
            u = turned(u, layers[..., turn, qubit], qubit, qubits)
        for place, control in enumerate(controls if qubits > 1 else ()):
            u = turned(u, layers[..., turn + 1, place], (control + ring) % qubits, qubits, control)
    return u


def turned(u: Tensor, angle: Tensor, qubit: int, qubits: int, control: int | None = None) -> Tensor:
    """u (..., 2^q, n) after a turn of one qubit about y, or, with a control, about x in the rows where that qubit is 1.

    Rows are states; qubit 0 is the highest digit of a row's number.
    """
    rows = torch.arange(u.shape[-2], device=u.device)
    place = 1 << (qubits - 1 - qubit)
    other = u[..., rows ^ place, :]
    cosine, sine = (angle / 2).cos()[..., None, None], (angle / 2).sin()[..., None, None]
    if control is None:  # (c, -s; s, c)
        sign = torch.where((rows & place).bool(), 1.0, -1.0).to(angle.dtype)[:, None]
        return cosine * u + sign * sine * other
    acts = (rows >> (qubits - 1 - control) & 1).bool()[:, None]
    return torch.where(acts, cosine * u - 1j * sine * other, u)  # (c, -is; -is, c)


def expectations(s: Tensor, qubits: int) -> Tensor:
    """(..., 3 q) real: of each qubit <X>, then of each <Y>, then of each <Z>, in the states s (..., 2^q)."""
    found = []
    for qubit in range(qubits):
        zero, one = s.unflatten(-1, (2**qubit, 2, -1)).unbind(-2)
        overlap = (zero.conj() * one).sum((-2, -1))
        height = zero.abs().square().sum((-2, -1)) - one.abs().square().sum((-2, -1))
        found.append(torch.stack((2 * overlap.real, 2 * overlap.imag, height), -1))
    return torch.stack(found, -1).flatten(-2)


def _complex(like: Tensor) -> torch.dtype:
    return torch.complex128 if like.dtype == torch.float64 else torch.complex64
