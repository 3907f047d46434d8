"""Symbolic regression by pyoperon: candidate equations of one output, as expression trees.

Genetic programming for two aims at once, the error and the length, so one run gives a whole front of equations. The
package is an extra and is imported here only.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from layersmith.errors import MissingExtra
from layersmith.ffn.shared.expressions import Tree

#: What equations are made of, in pyoperon's names, which are those of `expressions.OPERATORS`.
SYMBOLS = ("add", "sub", "mul", "aq", "square", "sin", "tanh")
#: Of the search: equations alive at once, and steps that fit the numbers of each.
POPULATION, STEPS = 500, 5


def require_engine() -> Any:
    """pyoperon's module with the regressor. MissingExtra, a UserError, where it is not installed."""
    try:
        return importlib.import_module("pyoperon.sklearn")
    except ImportError as error:
        raise MissingExtra("pyoperon", "formula", "The tool 'formula' (symbolic regression)") from error


def candidates(x: np.ndarray, y: np.ndarray, generations: int, longest: int, seed: int) -> list[Tree]:
    """Equations for y (N,) in x (N, variables), each shorter or nearer than every other; the same for the same seed."""
    regressor = require_engine().SymbolicRegressor(
        allowed_symbols=",".join((*SYMBOLS, "constant", "variable")),
        objectives=["r2", "length"],
        population_size=POPULATION,
        generations=generations,
        max_evaluations=POPULATION * generations * 20,
        max_length=longest,
        optimizer_iterations=STEPS,
        n_threads=1,
        random_state=seed,
    )
    regressor.fit(x, y)
    places = {key: index for index, key in enumerate(regressor.variables_)}
    return [simplified(_tree(found["tree"].Nodes, places)) for found in regressor.pareto_front_]


def simplified(tree: Tree) -> Tree:
    """The tree with one factor in front of each product, and sums of numbers added up: (2 x0) (3 x1) is 6 (x0 x1)."""
    factor, core = _factored(tree)
    return factor if core is None else core if factor == 1.0 else ["mul", factor, core]


def _factored(tree: Tree) -> tuple[float, Tree]:
    """A number and what it multiplies; None: nothing."""
    if not isinstance(tree, list):
        return (1.0, tree) if isinstance(tree, str) else (float(tree), None)
    parts = [_factored(branch) for branch in tree[1:]]
    if tree[0] == "mul":
        (a, first), (b, second) = parts
        cores = [core for core in (first, second) if core is not None]
        return a * b, None if not cores else cores[0] if len(cores) == 1 else ["mul", *cores]
    if tree[0] == "square":
        ((a, first),) = parts
        return a * a, None if first is None else ["square", first]
    if tree[0] in ("add", "sub"):
        sign = 1.0 if tree[0] == "add" else -1.0
        if all(core is None for _, core in parts):
            return parts[0][0] + sign * parts[1][0], None
        if parts[1] == (0.0, None):
            return parts[0]
    return 1.0, [tree[0], *(simplified(branch) for branch in tree[1:])]


def _tree(nodes: Any, places: dict[int, int]) -> Tree:
    """pyoperon's postfix nodes as a tree. A variable of theirs has a factor; arguments stand last first."""
    stack: list[Tree] = []
    for node in nodes:
        if node.IsVariable:
            name = f"x{places[node.HashValue]}"
            stack.append(name if node.Value == 1 else ["mul", float(node.Value), name])
        elif node.IsConstant:
            stack.append(float(node.Value))
        else:
            arguments = [stack.pop() for _ in range(node.Arity)]
            stack.append(_applied(node.Name.lower(), arguments))
    return stack[-1]


def _applied(name: str, arguments: list[Tree]) -> Tree:
    """An operator on its arguments; theirs take any number, ours two."""
    known = {"+": "add", "-": "sub", "*": "mul", "/": "div"}.get(name, name)
    if known in ("square", "sin", "tanh"):
        return [known, *arguments]
    first, *rest = arguments
    for each in rest:
        first = [known, first, each]
    return first
