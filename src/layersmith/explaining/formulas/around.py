"""Written equations of a function around one point: where they are fitted, the fit, and what they are judged beside.

    x = x_0 + R t,   t ~ N(0, 1)        points around x_0; everything else of x_0 is held
    w = exp(-|t|^2 / k)                 what a point weighs: the less, the farther away
    u_o = g_o(t)                        an equation for each principal direction of f(x): least weighted squared error

The coordinates t_1 .. t_k come from the inputs nearest to x_0, its neighbours: of all directions in which these differ,
the ones along which f changes most. t = 1 is one radius, a share of the neighbours' spread.

An error is the weighted squared distance from f over its weighted variance, at points that no fit has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from layersmith.explaining.formulas import engine, sparse
from layersmith.explaining.formulas.choice import chosen, fitted, front
from layersmith.explaining.formulas.directions import Directions, signs
from layersmith.explaining.tool import Settings
from layersmith.ffn.shared.expressions import Tree, compiled, run

ENGINES = ("sparse", "pyoperon")
#: Share of the points that equations are chosen on, and that the search does not see.
KEPT = 0.25
#: Points at which it is asked along which directions the output changes.
ASKED = 32
#: Directions with less than this share of the first one's spread are rounding.
FLAT = 1e-4
#: How many times as wide the neighbourhood is made, to see how far the equations hold.
WIDTHS = (1.0, 2.0, 4.0, 8.0)

#: Rows (N, D) -> rows (N, D'), float64 on the CPU.
Function = Callable[[Tensor], Tensor]


class Flat(ValueError):
    """There is nothing to fit around the point, for the reason that it says."""


@dataclass(frozen=True)
class Place:
    """Coordinates around a point.

    centre  (D,), where t is 0
    reads   (D, k): t = (x - centre) reads
    writes  (D, k): x = centre + writes t
    shares  (k,): of each, of all that the output changes by along the directions of the neighbours
    """

    centre: Tensor
    reads: Tensor
    writes: Tensor
    shares: Tensor

    @classmethod
    def of(cls, function: Function, centre: Tensor, near: Tensor, radius: float, inputs: int) -> Place:
        """near (J, D): the neighbours. Raises Flat where these do not differ, or the output does not change."""
        differ = Directions.of(near, min(len(near) - 1, near.shape[1]), FLAT)
        if differ.spread[0] < 1e-6 * centre.norm():
            raise Flat("the inputs nearest to it are all the same")
        axes, spread = differ.axes, radius * differ.spread
        changes, turned = torch.linalg.eigh(_changes(function, centre, axes * spread))
        if not changes[-1] > 0:
            raise Flat("what it gives does not change among the inputs nearest to it")
        turned, changes = turned.flip(1)[:, :inputs], changes.flip(0).clamp_min(0)
        turned = turned * signs((axes * spread) @ turned)
        return cls(centre, (axes / spread) @ turned, (axes * spread) @ turned, changes[:inputs] / changes.sum())

    def into(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, k)."""
        return (x - self.centre) @ self.reads

    def back(self, t: Tensor) -> Tensor:
        """(N, k) -> (N, D)."""
        return self.centre + t @ self.writes.T


@dataclass(frozen=True)
class Around:
    """What is fitted around a point.

    equations  one for each direction of `write`
    shuffled   the same, fitted to the outputs in a random order: the control
    matrix     (1 + k, D'): the weighted linear fit to every output, its constant first (LIME)
    mean       (D',): the weighted mean output
    """

    place: Place
    write: Directions
    equations: list[Tree]
    shuffled: list[Tree]
    matrix: Tensor
    mean: Tensor

    def errors(self, t: Tensor, y: Tensor, weights: Tensor) -> dict[str, float]:
        """Of the equations and what stands beside them, where the outputs at t (N, k) are y (N, D')."""
        said = {
            "equations": self.write.back(values(self.equations, t)),
            "projected": self.write.back(self.write.into(y)),
            "linear": _with_one(t) @ self.matrix,
            "mean": self.mean.expand_as(y),
            "shuffled": self.write.back(values(self.shuffled, t)),
        }
        return {name: _error(each, y, weights) for name, each in said.items()}

    def errors_of_outputs(self, t: Tensor, y: Tensor, weights: Tensor) -> list[tuple[float, float]]:
        """The error of each equation, and of the linear fit along the same direction."""
        told = self.write.into(y).split(1, 1)
        ours, linear = values(self.equations, t), self.write.into(_with_one(t) @ self.matrix)
        pairs = zip(told, ours.split(1, 1), linear.split(1, 1), strict=True)
        return [(_error(one, u, weights), _error(other, u, weights)) for u, one, other in pairs]


def fit(function: Function, centre: Tensor, near: Tensor, settings: Settings) -> Around:
    """The equations of a function around centre (D,), whose neighbours are near (J, D)."""
    place = Place.of(function, centre, near, settings["radius"], settings["inputs"])
    t, weights = drawn(place, settings["points"], 1.0, seed=1)
    y = function(place.back(t))
    write = Directions.of(y, settings["outputs"], FLAT)
    u = write.into(y)
    mixed = u[torch.randperm(len(u), generator=torch.Generator().manual_seed(2), device="cpu")]
    root = weights.sqrt()[:, None]
    return Around(
        place=place,
        write=write,
        equations=[_equation(t, each, weights, settings) for each in u.unbind(1)],
        shuffled=[_equation(t, each, weights, settings) for each in mixed.unbind(1)],
        matrix=torch.linalg.lstsq(_with_one(t) * root, y * root).solution,
        mean=weights @ y / weights.sum(),
    )


def drawn(place: Place, count: int, width: float, seed: int) -> tuple[Tensor, Tensor]:
    """Points t (count, k) of the neighbourhood made so many times as wide, and what they weigh (count,)."""
    t = _normal(count, place.writes.shape[1], seed)
    return width * t, (-t.square().mean(1)).exp()


def values(trees: list[Tree], t: Tensor) -> Tensor:
    """(N, k) -> (N, equations)."""
    programs, numbers = compiled(trees, t.shape[1])
    constants = torch.tensor(numbers, dtype=torch.float64, device="cpu")
    return torch.stack([run(program, t.unbind(-1), constants) for program in programs], -1)


def _equation(t: Tensor, u: Tensor, weights: Tensor, settings: Settings) -> Tree:
    """The one chosen of a front, on points that neither the search nor the fit of the numbers saw."""
    kept = int(KEPT * len(t))
    seen, told, counts = t[kept:], u[kept:], weights[kept:]
    if settings["engine"] == "sparse":
        trees = sparse.candidates(seen, told, counts, settings["longest"])
    else:
        # The genetic search knows no weights: it gets each point as often as chance by its weight says.
        draw = torch.Generator().manual_seed(3)
        rows = torch.multinomial(counts, len(counts), replacement=True, generator=draw)
        x, y = seen[rows].numpy(), told[rows].numpy()
        trees = engine.candidates(x, y, settings["generations"], settings["longest"], 0)
        trees = [fitted(tree, seen, told, counts) for tree in trees]
    return chosen(front([0.0, *trees], t[:kept], u[:kept], weights[:kept]))[1]


def _changes(function: Function, centre: Tensor, steps: Tensor) -> Tensor:
    """(n, n): how far the output moves along pairs of steps (D, n), summed over points among the neighbours.

    From one whole step before a point to one behind it: nothing is lost to rounding, and of a square that is its slope.
    """
    points = centre + _normal(ASKED, steps.shape[1], 0) @ steps.T
    moved = torch.stack([function(points + step) - function(points - step) for step in steps.T])
    return torch.einsum("ipd,jpd->ij", moved, moved)


def _error(said: Tensor, y: Tensor, weights: Tensor) -> float:
    """Weighted squared distance from y (N, n) over its weighted variance."""
    shares = weights / weights.sum()
    spread = shares @ (y - shares @ y).square().sum(1)
    return float(shares @ (said - y).square().sum(1) / spread.clamp_min(1e-30))


def _with_one(t: Tensor) -> Tensor:
    return torch.cat((torch.ones_like(t[:, :1]), t), 1)


def _normal(count: int, width: int, seed: int) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    return torch.randn(count, width, generator=draws, dtype=torch.float64, device="cpu")
