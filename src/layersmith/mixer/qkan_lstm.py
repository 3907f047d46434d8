"""QKAN-LSTM: an LSTM in which each gate is what a one-qubit circuit measures when the gate's sum is loaded into it.

    p_t = W_x x_t + W_h h_{t-1} + b                       four sums for each hidden unit
    i, f, g, o = s * phi(p_t)                             every unit of every gate has a circuit phi and a scale s
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(g)         h_t = sigmoid(o) tanh(c_t)         y_t = W_o h_t

phi loads p `reps` times, as in the feed-forward `hqkan`: a trigonometric polynomial of degree reps with |phi| <= 1,
which bends a gate up and down where a sigmoid alone is monotone. With phi(p) = sin(w p) / w, w small, it is an LSTM.

Shapes: x (B, T, D) -> p (B, T, 4 d_hidden) -> h, c (B, d_hidden) behind each token -> y (B, T, D).
State: h, c (B, d_hidden) in at least float32. Steps are taken one after the other (`shared/stepwise.py`).

Paper: "QKAN-LSTM: Quantum-inspired Kolmogorov-Arnold Long Short-term Memory", arXiv 2512.05049. That the circuits
stand in the gates is the abstract's; not confirmed, from memory: one for each unit, behind its sum. The circuit is
that of Jiang et al. 2025, arXiv 2509.14026.
Differs from the paper: a learned scale on each circuit, without which no gate could open further than sigmoid(1).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.stepwise import Step, SteppedMixer


class QKANLSTM(SteppedMixer):
    """A long short-term memory with circuits for gates.

    d_model, d_hidden   widths of the residual stream and of the state
    reps                times a circuit loads its input
    """

    name = "qkan_lstm"

    def __init__(self, d_model: int, d_hidden: int, reps: int = 2):
        super().__init__()
        require_positive(QKANLSTM, d_model=d_model, d_hidden=d_hidden, reps=reps)
        self.x = nn.Linear(d_model, 4 * d_hidden)  # i, f, g, o
        self.h = nn.Linear(d_hidden, 4 * d_hidden, bias=False)
        self.angles = nn.Parameter(
            nn.init.xavier_normal_(torch.empty(4 * d_hidden, 2 * reps + 2)).unflatten(1, (-1, 2))
        )
        self.weights = nn.Parameter(torch.ones(4 * d_hidden, reps))
        self.scale = nn.Parameter(torch.full((4 * d_hidden,), 2.0))
        self.o = nn.Linear(d_hidden, d_model)

    def read(self, x: Tensor) -> Tensor:
        return F.linear(x, self.x.weight.to(x.dtype), self.x.bias.to(x.dtype))

    def start(self, u: Tensor) -> State:
        nothing = u.new_zeros(u.shape[0], self.h.in_features)
        return {"h": nothing, "c": nothing}

    def stepper(self, u: Tensor) -> Step:
        recur, angles, weights, scale = (p.to(u.dtype) for p in (self.h.weight, self.angles, self.weights, self.scale))

        def step(now: Tensor, state: State) -> State:
            gates = scale * measured(now + state["h"] @ recur.mT, angles, weights)
            i, f, g, o = gates.chunk(4, dim=-1)
            c = f.sigmoid() * state["c"] + i.sigmoid() * g.tanh()
            return {"h": o.sigmoid() * c.tanh(), "c": c}

        return step

    def write(self, h: Tensor) -> Tensor:
        return F.linear(h, self.o.weight.to(h.dtype), self.o.bias.to(h.dtype))


def measured(p: Tensor, angles: Tensor, weights: Tensor) -> Tensor:
    """<Z> of one circuit for each channel of p (..., C); angles (C, reps + 1, 2), weights (C, reps).

    A qubit is a point (a, b, c) on a sphere, H|0> is (1, 0, 0). Loading turns it about the axis of c; c is measured.
    """
    about_c, about_b = angles.unbind(-1)
    a, b, c = about_c[:, 0].cos(), about_c[:, 0].sin(), torch.zeros_like(about_c[:, 0])
    for load in range(weights.shape[1]):
        c, a = _turned(c, a, about_b[:, load])
        a, b = _turned(a, b, p * weights[:, load] + about_c[:, load + 1])
    return _turned(c, a, about_b[:, -1])[0]


def _turned(first: Tensor, second: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Both coordinates after a turn that takes the first axis towards the second."""
    return first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()
