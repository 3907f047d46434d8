"""Which of the candidate equations is taken: numbers fitted again, a front of error against nodes, one of it.

    error(f) = mean (y - f(x))^2 / var(y)       on rows that the search did not see; weighted, where rows have weights

The front holds every equation that no other beats in both. Of it the shortest one is taken whose error is at most
`SLACK` times the least: a longer one would buy little.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.optimize import least_squares
from torch import Tensor

from layersmith.ffn.shared.expressions import Tree, compiled, nodes, run, with_constants

SLACK = 1.5
#: An error below this is that of rounding: equations under it count as equally exact.
EXACT = 1e-10


def fitted(tree: Tree, x: Tensor, y: Tensor, weights: Tensor | None = None) -> Tree:
    """The tree with its numbers at the least squares nearest to where they are.

    x (N, variables), y (N,), weights (N,), float64.
    """
    (program,), numbers = compiled([tree], x.shape[1])
    if not numbers:
        return tree
    variables = x.unbind(-1)
    counts = torch.ones_like(y) if weights is None else weights.sqrt()

    def wrong(values: Any) -> Any:
        found = (run(program, variables, torch.as_tensor(values, dtype=torch.float64)) - y) * counts
        return torch.nan_to_num(found, nan=1e6, posinf=1e6, neginf=-1e6).numpy()

    best = least_squares(wrong, numbers, method="trf", max_nfev=100, xtol=1e-14, ftol=1e-14, gtol=1e-14)
    return with_constants(tree, [float(value) for value in best.x])


def error(tree: Tree, x: Tensor, y: Tensor, weights: Tensor | None = None) -> float:
    """Mean squared error over the variance of y; infinity where the equation gives no number."""
    (program,), numbers = compiled([tree], x.shape[1])
    found = run(program, x.unbind(-1), torch.tensor(numbers, dtype=x.dtype))
    shares = torch.full_like(y, 1 / len(y)) if weights is None else weights / weights.sum()
    spread = shares @ (y - shares @ y).square()
    wrong = float(shares @ (found - y).square() / spread.clamp_min(1e-30))
    return wrong if wrong == wrong else float("inf")


def front(trees: Sequence[Tree], x: Tensor, y: Tensor, weights: Tensor | None = None) -> list[tuple[float, Tree]]:
    """(error, tree) of every equation that no shorter one equals, the shortest first."""
    judged = sorted(((nodes(tree), error(tree, x, y, weights), tree) for tree in trees), key=lambda each: each[:2])
    kept: list[tuple[float, Tree]] = []
    for _, wrong, tree in judged:
        if wrong < float("inf") and (not kept or wrong < kept[-1][0]):
            kept.append((wrong, tree))
    return kept


def chosen(found: Sequence[tuple[float, Tree]]) -> tuple[float, Tree]:
    """The shortest of a front that is nearly as good as its best."""
    least = max(found[-1][0], EXACT)
    return next(each for each in found if each[0] <= SLACK * least)
