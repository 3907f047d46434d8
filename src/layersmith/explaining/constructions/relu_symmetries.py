"""How many degrees of freedom a ReLU network really has: its parameters less one for each hidden unit, or fewer.

A hidden unit's inputs may be multiplied by c > 0 and its outputs divided by it, and units may change places: the
function stays what it is. So of all parameters at most

    P - (number of hidden units)

can change the function, which is the most that the rank of the Jacobian d(f(z_1), ..., f(z_m)) / d(parameters) can be,
over any points z. Where it is attained nothing is hidden; a unit that is never on, for instance, hides all its weights.

Paper: "Hidden symmetries of ReLU networks" (functional dimension, its bound, and what hides symmetries).
Differs from the paper: the definition takes the most over all points; here points are drawn, enough of them that more
do not raise the rank in these sizes. How likely a random network of which shape attains the bound is not counted.
"""

from __future__ import annotations

import itertools
import random

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.regression import draw
from layersmith.explaining.constructions.shared.wiring import finished

#: Points for each parameter, and how far they reach: beyond the places where units turn on.
POINTS, REACH = 4, 3.0


class Networks(nn.Module):
    """x (B, inputs) -> (B, 1): a random network, and the same one with its hidden units scaled and in another order."""

    def __init__(self, inputs: int, width: int, layers: int, seed: int):
        super().__init__()
        self.one = _network(inputs, width, layers)
        self.other = _network(inputs, width, layers)
        for n, parameter in enumerate(self.one.parameters()):
            parameter.data = (
                draw(seed + n, *parameter.shape) / (parameter.shape[-1] if parameter.ndim > 1 else 4) ** 0.5
            )
        _copied(self.one, self.other, random.Random(seed))

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x)


class ReLUSymmetries(Construction):
    name = "relu_symmetries"
    summary = "a ReLU network has a degree of freedom less for each hidden unit, and fewer where one is never on"
    papers = ("hidden-symmetries-relu-networks",)
    settings = {  # noqa: RUF012
        "inputs": Setting(6, 1, 16, "the number of inputs"),
        "width": Setting(8, 1, 24, "the hidden units of a layer"),
        "layers": Setting(1, 1, 4, "hidden layers"),
        "seed": Setting(0, 0, 2**31, "the seed of the weights"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Networks(*(settings[name] for name in ("inputs", "width", "layers", "seed"))))

    def claims(self, settings: Settings) -> list[Claim]:
        width, layers = settings["width"], settings["layers"]
        parameters = sum(p.numel() for p in _network(settings["inputs"], width, layers).parameters())
        points = REACH * draw(settings["seed"] + 100, POINTS * parameters, settings["inputs"])
        free = parameters - width * layers
        return [
            Claim(
                "scaled and reordered it computes the same",
                f"largest difference at {len(points)} points",
                lambda m: float((m.one(points) - m.other(points)).abs().max()),
                most=1e-9,
            ),
            Claim(
                f"of {parameters} parameters no more than {free} count",
                "rank of the Jacobian",
                lambda m: rank(m.one, points),
                most=free,
            ),
            Claim(
                "a unit that is never on hides its weights",
                f"rank of the Jacobian; {free} would hide nothing",
                lambda m: rank(_switched_off(settings), points),
                most=free - 1,
                limit=True,
            ),
        ]


def _network(inputs: int, width: int, layers: int) -> nn.Sequential:
    sizes = [inputs, *[width] * layers]
    hidden = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, 1)).double()


def _maps(network: nn.Sequential) -> list[nn.Linear]:
    return [part for part in network if isinstance(part, nn.Linear)]


@torch.no_grad()
def _copied(one: nn.Sequential, other: nn.Sequential, toss: random.Random) -> None:
    """The weights of one in the other, its hidden units scaled by 1/4 to 4 and in random order."""
    maps, copies = _maps(one), _maps(other)
    order, scale = list(range(maps[0].in_features)), torch.ones(maps[0].in_features, dtype=torch.float64)
    for linear, copy in zip(maps, copies, strict=True):
        columns = linear.weight[:, order] / scale
        last = linear.out_features == 1 and linear is maps[-1]
        order = toss.sample(range(linear.out_features), linear.out_features)
        factors = [1.0 if last else 4.0 ** toss.uniform(-1, 1) for _ in order]
        scale = torch.tensor(factors, dtype=torch.float64)
        copy.weight.copy_(columns[order] * scale[:, None])
        copy.bias.copy_(linear.bias[order] * scale)


def _switched_off(settings: Settings) -> nn.Sequential:
    """The network with a first hidden unit that reads nothing and is off wherever one looks."""
    network = Networks(*(settings[name] for name in ("inputs", "width", "layers", "seed"))).one.double()
    first = _maps(network)[0]
    first.weight.data[0], first.bias.data[0] = 0.0, -1.0
    return network


def rank(network: nn.Sequential, points: Tensor) -> int:
    """Of the derivatives of what the network says at the points (m, inputs) by all of its parameters."""
    parameters = {name: p.detach() for name, p in network.named_parameters()}

    def said(these: dict[str, Tensor], point: Tensor) -> Tensor:
        return functional_call(network, these, (point[None],))[0, 0]

    slopes = vmap(jacrev(said), (None, 0))(parameters, points)
    jacobian = torch.cat([slope.flatten(1) for slope in slopes.values()], 1)
    # Columns of one length: what is counted must not depend on the scale of a unit.
    lengths = jacobian.norm(dim=0).clamp_min(1e-300)
    return int(torch.linalg.matrix_rank(jacobian / lengths, rtol=1e-9))
