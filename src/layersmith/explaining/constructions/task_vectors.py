"""A task vector is an accumulated gradient: after one epoch of full-batch descent exactly, after several nearly.

One network theta_0 and K tasks with losses L_k. Each is tuned by itself at the rate eta, and tau_k = theta_k - theta_0:

    after 1 epoch     tau_k = - eta grad L_k(theta_0)
    after T epochs    tau_k = - eta T grad L_k(theta_0) + O(eta^2)
    merging           theta_0 + lambda sum_k tau_k, after one epoch one step of descent on sum_k L_k at lambda eta

The network is one feed-forward with tanh, the tasks regressions on other teachers of the same shape. `build` holds
theta_0, the K networks after one epoch, and their merge.

Paper: "On Task Vectors and Gradients", arXiv 2508.16082 (its statements; its explicit bound of the second-order term is
not here, only that the term is of second order).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw, largest
from layersmith.explaining.constructions.shared.wiring import finished
from layersmith.ffn.mlp import MLP

Weights = dict[str, Tensor]
ROWS = 200
#: Epochs that are taken for converged, and the rate at which they are.
MANY, FAST = 400, 0.2


class Tuned(nn.Module):
    """theta_0, one network a task, and their merge."""

    def __init__(self, d: int, hidden: int, tasks: int):
        super().__init__()
        self.start = MLP(d, hidden, act="tanh")
        self.tuned = nn.ModuleList(MLP(d, hidden, act="tanh") for _ in range(tasks))
        self.merged = MLP(d, hidden, act="tanh")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.merged(x)
        return y


class TaskVectors(Construction):
    name = "task_vectors"
    summary = "a task vector is minus the learning rate times the gradient, exactly after one epoch"
    papers = ("task-vectors-gradients",)
    settings = {  # noqa: RUF012
        "d": Setting(4, 1, 64, "the width of inputs and outputs"),
        "hidden": Setting(16, 1, 512, "the width of the hidden layer"),
        "tasks": Setting(3, 1, 20, "the number of tasks"),
        "epochs": Setting(5, 2, 100, "the number of epochs where there are several"),
        "rate": Setting(0.05, 1e-6, 0.1, "the learning rate"),
        "scaling": Setting(0.4, 0.0, 10.0, "the factor of the task vectors in the merge"),
        "seed": Setting(0, 0, 2**31, "the seed of the draws"),
    }

    def build(self, settings: Settings) -> nn.Module:
        module = Tuned(settings["d"], settings["hidden"], settings["tasks"]).double()
        start = _drawn(settings, settings["seed"])
        tuned = [descend(module, start, task, settings["rate"], 1) for task in tasks(settings, module)]
        merged = {n: w + settings["scaling"] * sum(own[n] - w for own in tuned) for n, w in start.items()}
        for network, weights in zip([module.start, *module.tuned, module.merged], [start, *tuned, merged], strict=True):
            network.load_state_dict(weights)
        return finished(module)

    def claims(self, settings: Settings) -> list[Claim]:
        rate, scaling, epochs = settings["rate"], settings["scaling"], settings["epochs"]
        return [
            Claim(
                "after one epoch the task vector is minus the rate times the gradient",
                "largest difference of any weight, all tasks",
                lambda m: max(
                    largest(*_residual(m, _weights(own), task, rate, 1).values())
                    for own, task in zip(m.tuned, tasks(settings, m), strict=True)
                ),
                most=1e-12,
            ),
            Claim(
                "the merge is one step of descent on the sum of the losses",
                "largest difference of any weight",
                lambda m: largest(*_from_step(m, settings, rate * scaling).values()),
                most=1e-12,
            ),
            Claim(
                f"after {epochs} epochs what is left is of second order in the rate",
                "distance of the log-log slope from 2, between two rates a tenth and a hundredth of the setting",
                lambda m: abs(_slope(m, settings) - 2),
                most=0.05,
            ),
            Claim(
                f"after {MANY} epochs at the rate {FAST:g} the task vector is no multiple of the gradient",
                "cosine between the task vector and minus the gradient, first task",
                lambda m: _cosine(m, tasks(settings, m)[0]),
                most=0.98,
                limit=True,
            ),
        ]


def tasks(settings: Settings, module: Tuned) -> list[tuple[Tensor, Tensor]]:
    """(x, y) of each task, y a teacher's outputs."""
    found = []
    for index in range(settings["tasks"]):
        seed = settings["seed"] + 100 * (index + 1)
        x = draw(seed, ROWS, settings["d"])
        with torch.no_grad():
            found.append((x, functional_call(module.start, _drawn(settings, seed + 1), (x,))))
    return found


def gradient(module: Tuned, weights: Weights, task: tuple[Tensor, Tensor]) -> Weights:
    """Of the mean squared error of a network with these weights, over the whole task."""
    x, y = task
    leaves = {name: w.detach().clone().requires_grad_() for name, w in weights.items()}
    with torch.enable_grad():
        loss = (functional_call(module.start, leaves, (x,)) - y).square().mean()
        found = torch.autograd.grad(loss, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def descend(module: Tuned, weights: Weights, task: tuple[Tensor, Tensor], rate: float, epochs: int) -> Weights:
    """Full-batch gradient descent."""
    for _ in range(epochs):
        slope = gradient(module, weights, task)
        weights = {name: w - rate * slope[name] for name, w in weights.items()}
    return weights


def _drawn(settings: Settings, seed: int) -> Weights:
    """Weights of a network, of the size of their usual start, and biases."""
    d, hidden = settings["d"], settings["hidden"]
    shapes = {"up.weight": (hidden, d), "up.bias": (hidden,), "down.weight": (d, hidden), "down.bias": (d,)}
    size = {"up": d**-0.5, "down": hidden**-0.5}
    return {n: size[n.split(".")[0]] * draw(seed + 7 * i, *s) for i, (n, s) in enumerate(shapes.items())}


def _weights(network: nn.Module) -> Weights:
    return {name: parameter.detach() for name, parameter in network.named_parameters()}


def _residual(module: Tuned, tuned: Weights, task: tuple[Tensor, Tensor], rate: float, epochs: int) -> Weights:
    """tau + eta T grad L(theta_0), weight by weight."""
    start = _weights(module.get_submodule("start"))
    slope = gradient(module, start, task)
    return {name: tuned[name] - w + rate * epochs * slope[name] for name, w in start.items()}


def _from_step(module: Tuned, settings: Settings, rate: float) -> Weights:
    """How far the merge is from one step on the sum of all losses."""
    start, merged = _weights(module.get_submodule("start")), _weights(module.get_submodule("merged"))
    slopes = [gradient(module, start, task) for task in tasks(settings, module)]
    return {name: merged[name] - w + rate * sum(slope[name] for slope in slopes) for name, w in start.items()}


def _slope(module: Tuned, settings: Settings) -> float:
    start, task, epochs = _weights(module.get_submodule("start")), tasks(settings, module)[0], settings["epochs"]
    sizes = []
    for rate in (settings["rate"] / 10, settings["rate"] / 100):
        left = _residual(module, descend(module, start, task, rate, epochs), task, rate, epochs)
        sizes.append(_length(left))
    return math.log(sizes[0] / sizes[1]) / math.log(10)


def _cosine(module: Tuned, task: tuple[Tensor, Tensor]) -> float:
    start = _weights(module.get_submodule("start"))
    tuned, slope = descend(module, start, task, FAST, MANY), gradient(module, start, task)
    tau = {name: tuned[name] - w for name, w in start.items()}
    return -sum(float((tau[n] * slope[n]).sum()) for n in tau) / (_length(tau) * _length(slope))


def _length(weights: Weights) -> float:
    return math.sqrt(sum(float(w.square().sum()) for w in weights.values()))
