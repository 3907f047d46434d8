"""Sparse regression: candidate equations of one output as sums of few products of the variables. Needs no package.

    y ~ c_0 + c_1 p_1(x) + c_2 p_2(x) + ...        p: a variable, or the product of two or three, squares among them

The products are taken one by one: each time the one that brings the weighted squared error down furthest, all numbers
being fitted again (orthogonal least squares). So one pass gives a whole series of equations, each a product longer than
the last. Around a point a smooth function is such a sum, its Taylor polynomial.

Paper: "Orthogonal least squares methods and their application to non-linear system identification" (Chen, Billings and
Luo 1989).
"""

from __future__ import annotations

from itertools import combinations_with_replacement

import torch
from torch import Tensor

from layersmith.ffn.shared.expressions import Tree, nodes

#: Variables that a product has at most.
DEGREE = 3
#: What is left of a squared length below this is rounding.
ROUNDING = 1e-18


def candidates(x: Tensor, y: Tensor, weights: Tensor, longest: int) -> list[Tree]:
    """Equations for y (N,) in x (N, variables), a constant first, none of more than `longest` nodes; float64."""
    products = [
        each for degree in range(1, DEGREE + 1) for each in combinations_with_replacement(range(x.shape[1]), degree)
    ]
    root = weights.sqrt()
    columns = torch.stack([x[:, list(each)].prod(1) for each in products], 1) * root[:, None]
    first = root / root.norm()
    left, free = y * root - first * (first @ (y * root)), columns - torch.outer(first, first @ columns)
    size, whole = columns.square().sum(0), left.square().sum()
    taken: list[int] = []
    trees = [_sum([], _numbers(root[:, None], y * root))]
    while left.square().sum() > ROUNDING * whole and len(taken) < len(products):
        length = free.square().sum(0)
        gain = torch.where(length > ROUNDING * size, (left @ free).square() / length.clamp_min(1e-300), 0.0)
        taken.append(int(gain.argmax()))
        numbers = _numbers(torch.cat((root[:, None], columns[:, taken]), 1), y * root)
        tree = _sum([products[index] for index in taken], numbers)
        if nodes(tree) > longest:
            break
        trees.append(tree)
        best = free[:, taken[-1]] / free[:, taken[-1]].norm()
        left, free = left - best * (best @ left), free - torch.outer(best, best @ free)
    return trees


def _numbers(columns: Tensor, y: Tensor) -> list[float]:
    """Of the least squares."""
    return torch.linalg.lstsq(columns, y[:, None]).solution[:, 0].tolist()


def _sum(products: list[tuple[int, ...]], numbers: list[float]) -> Tree:
    tree: Tree = numbers[0]
    for product, number in zip(products, numbers[1:], strict=True):
        tree = ["add", tree, ["mul", number, _product(product)]]
    return tree


def _product(variables: tuple[int, ...]) -> Tree:
    """(0, 0, 1) -> x0 squared times x1."""
    names = [f"x{index}" for index in variables]
    tree: Tree = names[0]
    if len(names) > 1:
        tree = ["square", names[0]] if names[0] == names[1] else ["mul", names[0], names[1]]
    if len(names) > 2:
        tree = ["mul", names[0], ["square", names[1]]] if names[1] == names[2] else ["mul", tree, names[2]]
    return tree
