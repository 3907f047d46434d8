"""Differentiable logic gates: every neuron is a soft choice among the 16 gates of two fixed inputs.

    bit    = sigmoid(s (x_i - t))                              thresholds t, several for each channel
    neuron = sum over g of softmax(w)_g gate_g(a, b)           a, b: two values of the layer below, wired at random
    y_d    = scale_d / tau * (sum of the neurons of group d) + shift_d

On numbers in [0, 1] the gates are AND = ab, OR = a + b - ab, XOR = a + b - 2ab, and so on: each is
c_0 + c_1 a + c_2 b + c_3 ab, and so is every mixture of them. Once trained, `hardened` keeps the likeliest gate of each
neuron and compares inputs with their thresholds: a boolean circuit, which `circuit` writes out.

Shapes: x (..., D) -> bits (..., D * thresholds) -> (..., d_hidden) in each layer -> y (..., D).
There are no matrix products, so the reported FLOPs are zero; the work is element-wise (and, hardened, on bits).

Paper: Brändle et al. 2025, "From MNIST to ImageNet: Understanding the Scalability Boundaries of Differentiable Logic
Gate Networks", arXiv 2509.25933, on the networks of Petersen et al. 2022, arXiv 2210.08277. Confirmed in the latter's
code (Felix-Petersen/difflogic): the gates and their order, softmax mixtures, starting weights, random wiring in which
every input is used, and the GroupSum with its temperature tau.
Differs from the paper: learned soft thresholds make bits of real inputs, and each output has a learned scale and
shift, because a feed-forward is no classifier; in evaluation the part stays soft unless it is hardened.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive

#: gate -> the coefficients of 1, a, b, ab. Gate g has the truth table g in binary: ab = 00, 01, 10, 11 from the left.
GATES = [
    [0, 0, 0, 0],
    [0, 0, 0, 1],
    [0, 1, 0, -1],
    [0, 1, 0, 0],
    [0, 0, 1, -1],
    [0, 0, 1, 0],
    [0, 1, 1, -2],
    [0, 1, 1, -1],
    [1, -1, -1, 1],
    [1, -1, -1, 2],
    [1, 0, -1, 0],
    [1, 0, -1, 1],
    [1, -1, 0, 0],
    [1, -1, 0, 1],
    [1, 0, 0, -1],
    [1, 0, 0, 0],
]


class LogicGates(FeedForward):
    """Feed-forward of learned logic gates.

    d_model      width of the residual stream
    d_hidden     neurons of each layer: a multiple of d_model, and at least half of what the layer reads
    layers       layers of gates
    thresholds   bits made of each input channel
    tau          temperature of the GroupSum
    hard         compute with the likeliest gates on true bits (not trainable)
    """

    name = "logic_gates"

    wires: Tensor

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        layers: int = 2,
        thresholds: int = 4,
        tau: float = 1.0,
        hard: bool = False,
    ):
        super().__init__()
        require_positive(LogicGates, d_model=d_model, d_hidden=d_hidden, layers=layers, thresholds=thresholds)
        bits = d_model * thresholds
        if d_hidden % d_model:
            raise ValueError(
                f"LogicGates: d_hidden={d_hidden} must be a multiple of d_model={d_model}, one group each."
            )
        if 2 * d_hidden < bits:
            raise ValueError(
                f"LogicGates: d_hidden={d_hidden} neurons with two inputs each cannot read all of the "
                f"d_model * thresholds = {bits} bits. Use more neurons or fewer thresholds."
            )
        if not tau > 0:
            raise ValueError(f"LogicGates: tau must be positive, not {tau!r}.")
        self.tau, self.hard = tau, hard
        # Evenly between -1 and 1. (Not linspace: once transformers has loaded a model, it ignores a default device.)
        spread = 2 * torch.arange(1, thresholds + 1) / (thresholds + 1) - 1
        self.threshold = nn.Parameter(spread.repeat(d_model, 1))
        self.slope = nn.Parameter(torch.full((d_model, thresholds), 2.0))
        self.gates = nn.ParameterList(torch.randn(d_hidden, 16) for _ in range(layers))
        self.register_buffer("wires", torch.stack([random_wires(d_hidden, d_hidden) for _ in range(layers)]))
        self.wires[0] = random_wires(bits, d_hidden)
        self.scale = nn.Parameter(torch.full((d_model,), d_model / d_hidden))
        self.shift = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Tensor) -> Tensor:
        neurons = self.neurons(x)
        groups = neurons.unflatten(-1, (len(self.scale), -1)).sum(-1) / self.tau
        return groups * self.scale + self.shift

    def neurons(self, x: Tensor) -> Tensor:
        """The values (..., d_hidden) of the last layer of gates."""
        offset = x[..., None] - self.threshold
        value = (offset > 0).to(x.dtype) if self.hard else (self.slope * offset).sigmoid()
        value = value.flatten(-2)
        table = torch.tensor(GATES, dtype=x.dtype, device=x.device)
        for weight, (first, second) in zip(self.gates, self.wires, strict=True):
            mixture = table[weight.argmax(-1)] if self.hard else weight.softmax(-1).to(x.dtype) @ table
            c_0, c_1, c_2, c_3 = mixture.unbind(-1)
            a, b = value[..., first], value[..., second]
            value = c_0 + c_1 * a + c_2 * b + c_3 * a * b
        return value

    def hardened(self) -> LogicGates:
        """The same part as a boolean circuit between the comparisons and the sums."""
        config = {k: v for k, v in self.spec().items() if k != "name"}
        part = LogicGates(**{**config, "hard": True}).to(self.scale)
        part.load_state_dict(self.state_dict())
        return part

    def circuit(self) -> list[list[tuple[int, int, int]]]:
        """For each layer and neuron: (gate, first input, second input); the first layer reads the bits."""
        gates = [weight.argmax(-1).tolist() for weight in self.gates]
        return [list(zip(gate, *wires, strict=True)) for gate, wires in zip(gates, self.wires.tolist(), strict=True)]


def random_wires(inputs: int, neurons: int) -> Tensor:
    """(2, neurons): the two inputs of each neuron, all inputs used about equally often."""
    dealt = torch.randperm(2 * neurons) % inputs
    return torch.randperm(inputs)[dealt].reshape(2, neurons)
