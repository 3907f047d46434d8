"""Networks that nobody trained compute simple functions, if their activation makes them so.

    f(x) = W_L act(... act(W_1 x)),    W uniform, of variance s^2 * 2 / (fan in + fan out)          x on [-1, 1]^2

How complex f is (`measures/complexity.py`: the mean frequency of the waves that it consists of) depends on the
activation and, for most, on the scale s of the weights. ReLU is the exception: relu(c x) = c relu(x), so all of f is
multiplied by s^L and stays as simple as it was. Sines and Gaussians of large weights are far from simple.

Paper: "Neural Redshift: Random Networks are not Random Functions". Confirmed in its released code: the activations and
the uniform weights of a given amplitude.
Differs from the paper: no biases, which makes the statement about ReLU exact; its transformers, and complexity by
Chebyshev polynomials and by compression, are not here.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import finished
from layersmith.explaining.measures.complexity import complexity

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "sine": torch.sin,
    "gaussian": lambda x: (-x.square()).exp(),
}
#: Points along a side of the square, and a scale at which everything smooth is linear.
SIDE, TINY = 32, 0.01


class Networks(nn.Module):
    """x (N, 2) -> (networks, N): networks at scale 1, or the same ones with all weights multiplied by `scale`."""

    def __init__(self, networks: int, width: int, layers: int, scale: float, seed: int):
        super().__init__()
        sizes = [2, *[width] * layers, 1]
        draws = torch.Generator().manual_seed(seed)
        self.small, self.large = nn.ParameterList(), nn.ParameterList()
        for d_in, d_out in pairwise(sizes):
            reach = (6 / (d_in + d_out)) ** 0.5
            drawn = torch.rand(networks, d_out, d_in, generator=draws, dtype=torch.float64, device="cpu")
            self.small.append(nn.Parameter(reach * (2 * drawn - 1)))
            self.large.append(nn.Parameter(scale * reach * (2 * drawn - 1)))

    def forward(self, x: Tensor, act: str = "relu", large: bool = False, times: float = 1.0) -> Tensor:
        first, *others = self.large if large else self.small
        h = times * x @ first.mT
        for weight in others:
            h = times * ACTIVATIONS[act](h) @ weight.mT
        return h.squeeze(-1)


class RandomNetworks(Construction):
    name = "random_networks"
    summary = "networks with random weights: how complex their functions are is decided by the activation"
    papers = ("neural-redshift",)
    settings = {  # noqa: RUF012
        "networks": Setting(10, 2, 100, "the number of networks drawn"),
        "width": Setting(32, 4, 256, "the hidden units of a layer"),
        "layers": Setting(3, 1, 8, "hidden layers"),
        "scale": Setting(6.0, 4.0, 16.0, "what large weights are multiplied by"),
        "seed": Setting(0, 0, 2**31, "the seed of the weights"),
    }

    def build(self, settings: Settings) -> nn.Module:
        keys = ("networks", "width", "layers", "scale", "seed")
        return finished(Networks(*(settings[key] for key in keys)))

    def claims(self, settings: Settings) -> list[Claim]:
        scale, power = settings["scale"], settings["layers"] + 1
        return [
            Claim(
                "the measure finds the frequency of a wave",
                "largest difference from j / 2 turns, j from 1 to 16",
                lambda m: max(abs(_wave(j) - j / 2) for j in range(1, 17)),
                most=1e-9,
            ),
            Claim(
                f"with weights {scale:g} times as large a ReLU network is the same function, {scale:g}^{power} times",
                "largest difference over the largest value",
                lambda m: _same(m, scale**power),
                most=1e-12,
            ),
            Claim(
                "so that it stays as simple",
                "largest difference of the mean frequency",
                lambda m: float((_complexity(m, "relu", large=True) - _complexity(m, "relu")).abs().max()),
                most=1e-9,
            ),
            *(
                Claim(
                    f"{act} networks get more complex with larger weights",
                    "mean frequency at large weights over that at small ones",
                    lambda m, act=act: _mean(m, act, large=True) / _mean(m, act),  # type: ignore[misc]
                    least=1.5,
                )
                for act in ("tanh", "sine", "gaussian")
            ),
            Claim(
                "at large weights sines and Gaussians are more complex than tanh",
                "the lesser of their mean frequencies over that of tanh",
                lambda m: min(_mean(m, a, large=True) for a in ("sine", "gaussian")) / _mean(m, "tanh", large=True),
                least=1.1,
            ),
            Claim(
                "and tanh than ReLU and GELU",
                "mean frequency of tanh over the greater of theirs",
                lambda m: _mean(m, "tanh", large=True) / max(_mean(m, a, large=True) for a in ("relu", "gelu")),
                least=1.1,
            ),
            Claim(
                "with tiny weights tanh and sine networks are linear, and nothing is to be told apart",
                "greater over lesser mean frequency",
                lambda m: _ratio(_mean(m, "tanh", times=TINY), _mean(m, "sine", times=TINY)),
                most=1.01,
                limit=True,
            ),
        ]


def _square() -> Tensor:
    """(SIDE^2, 2), the middles of cells of [-1, 1]^2."""
    side = (torch.arange(SIDE, dtype=torch.float64) + 0.5) * (2 / SIDE) - 1
    return torch.cartesian_prod(side, side)


def _wave(j: int) -> float:
    u = (_square().unflatten(0, (SIDE, SIDE))[..., 1] + 1) / 2
    return float(complexity(torch.cos(torch.pi * j * u)))


def _same(module: Any, factor: float) -> float:
    x = _square()
    small, large = module(x), module(x, large=True)
    return float((large / factor - small).abs().max() / small.abs().max())


def _complexity(module: Any, act: str, large: bool = False, times: float = 1.0) -> Tensor:
    """(networks,)."""
    return complexity(module(_square(), act, large, times).unflatten(1, (SIDE, SIDE)))


def _mean(module: Any, act: str, large: bool = False, times: float = 1.0) -> float:
    return float(_complexity(module, act, large, times).mean())


def _ratio(a: float, b: float) -> float:
    return max(a, b) / min(a, b)
