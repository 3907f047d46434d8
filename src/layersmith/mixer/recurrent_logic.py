"""Recurrent logic gates: the state is a row of bits, and every token's bits and the last state pass through soft gates.

    b_t  = sigmoid(s (x_t - theta))                                 thresholds theta, several for each channel
    h_t  = gates_L( ... gates_1([b_t, h_{t-1}]))                    h_0 = 0
    gate = sum over g of softmax(w)_g g(a, b)                       a, b: two values of the layer below, wired at random
    y_d  = scale_d / tau * (sum of the states of group d) + shift_d

On numbers in [0, 1] the 16 gates are AND = ab, OR = a + b - ab, XOR = a + b - 2ab, and so on; each is
c_0 + c_1 a + c_2 b + c_3 ab. Once trained, `hardened` keeps the likeliest gate of each neuron and compares inputs with
their thresholds: a finite automaton of boolean circuits. One XOR of a bit and its own state tells the parity of a text
of any length.

Shapes: x (B, T, D) -> b (B, T, D * thresholds) -> h (B, T, d_hidden) -> y (B, T, D).
State: h (B, d_hidden = D * neurons) in at least float32. The steps are taken one after the other
(`shared/stepwise.py`). There are no matrix products, so the reported FLOPs are zero.

Paper: "Recurrent Deep Differentiable Logic Gate Networks". Not confirmed, from memory: that layers of gates read the
token's bits and the last state, and start from zeros. Gates, mixtures, wiring and group sums are those of Petersen et
al. 2022, arXiv 2210.08277.
Differs from the paper: one recurrent layer in place of an encoder and a decoder with layers of their own; soft
thresholds make bits of real inputs, and each output has a learned scale and shift.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.stepwise import Step, SteppedMixer


class RecurrentLogic(SteppedMixer):
    """A recurrent network of logic gates.

    d_model      width of the residual stream
    neurons      bits of the state, and neurons of every layer, for each channel; at least thresholds
    layers       layers of gates that a step goes through
    thresholds   bits made of each input channel
    tau          temperature of the group sums
    hard         compute with the likeliest gates on true bits (not trainable)
    """

    name = "recurrent_logic"

    wires: Tensor

    def __init__(
        self,
        d_model: int,
        neurons: int = 4,
        layers: int = 1,
        thresholds: int = 2,
        tau: float = 1.0,
        hard: bool = False,
    ):
        super().__init__()
        require_positive(RecurrentLogic, d_model=d_model, neurons=neurons, layers=layers, thresholds=thresholds)
        if neurons < thresholds:
            raise ValueError(
                f"RecurrentLogic: neurons={neurons} with two inputs each cannot read the state and thresholds="
                f"{thresholds} bits of every channel. Use more neurons or fewer thresholds."
            )
        bits, d_hidden = d_model * thresholds, d_model * neurons
        if not tau > 0:
            raise ValueError(f"RecurrentLogic: tau must be positive, not {tau!r}.")
        self.tau, self.hard = tau, hard
        spread = 2 * torch.arange(1, thresholds + 1) / (thresholds + 1) - 1
        self.threshold = nn.Parameter(spread.repeat(d_model, 1))
        self.slope = nn.Parameter(torch.full((d_model, thresholds), 2.0))
        self.gates = nn.ParameterList(torch.randn(d_hidden, 16) for _ in range(layers))
        # The first layer reads the bits, and behind them the state.
        wires = [_random_wires(bits + d_hidden if layer == 0 else d_hidden, d_hidden) for layer in range(layers)]
        self.register_buffer("wires", torch.stack(wires))
        self.scale = nn.Parameter(torch.full((d_model,), 1 / neurons))
        self.shift = nn.Parameter(torch.zeros(d_model))

    def read(self, x: Tensor) -> Tensor:
        offset = x[..., None] - self.threshold.to(x.dtype)
        bits = (offset > 0).to(x.dtype) if self.hard else (self.slope.to(x.dtype) * offset).sigmoid()
        return bits.flatten(-2)

    def start(self, u: Tensor) -> State:
        return {"h": u.new_zeros(u.shape[0], self.wires.shape[-1])}

    def stepper(self, u: Tensor) -> Step:
        table = gate_table(u)
        mixtures = [
            (table[weight.argmax(-1)] if self.hard else _mixture(weight.to(u.dtype), table)).unbind(-1)
            for weight in self.gates
        ]

        def step(bits: Tensor, state: State) -> State:
            value = torch.cat((bits, state["h"]), dim=-1)
            for (c_0, c_1, c_2, c_3), (first, second) in zip(mixtures, self.wires, strict=True):
                a, b = value[..., first], value[..., second]
                value = c_0 + c_1 * a + c_2 * b + c_3 * a * b
            return {"h": value}

        return step

    def write(self, h: Tensor) -> Tensor:
        groups = h.unflatten(-1, (len(self.scale), -1)).sum(-1) / self.tau
        return groups * self.scale.to(h.dtype) + self.shift.to(h.dtype)

    def hardened(self) -> RecurrentLogic:
        """The same part as a boolean automaton between the comparisons and the sums."""
        config = {k: v for k, v in self.spec().items() if k != "name"}
        part = RecurrentLogic(**{**config, "hard": True}).to(self.scale)
        part.load_state_dict(self.state_dict())
        return part


def gate_table(like: Tensor) -> Tensor:
    """(16, 4): of each gate the coefficients of 1, a, b and ab. Gate g has g in binary for its truth table.

    The outputs at ab = 00, 01, 10, 11 are its digits, the first one highest.
    """
    gate = torch.arange(16, device=like.device)
    at_00, at_01, at_10, at_11 = ((gate >> shift & 1).to(like.dtype) for shift in (3, 2, 1, 0))
    return torch.stack((at_00, at_10 - at_00, at_01 - at_00, at_11 - at_10 - at_01 + at_00), dim=-1)


def _mixture(weight: Tensor, table: Tensor) -> Tensor:
    """(N, 4): of each neuron the coefficients of its soft choice; no product of matrices, which no token needs."""
    return (weight.softmax(-1)[..., None] * table).sum(-2)


def _random_wires(inputs: int, neurons: int) -> Tensor:
    """(2, neurons): the two inputs of each neuron, all inputs used about equally often."""
    dealt = torch.randperm(2 * neurons) % inputs
    return torch.randperm(inputs)[dealt].reshape(2, neurons)
