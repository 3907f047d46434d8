"""Expression trees of several variables as JSON, and what runs them: a program for a stack, without `eval`.

    ["add", ["mul", 0.5, "x0"], ["sin", "x1"]]       numbers are constants, "x0" the first variable

A tree is checked when it is read: only the operators below, as many arguments as they take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Tree = Any

#: Name -> number of arguments, function, how it is written.
OPERATORS: dict[str, tuple[int, Callable[..., Tensor], str]] = {
    "add": (2, torch.add, "({} + {})"),
    "sub": (2, torch.sub, "({} - {})"),
    "mul": (2, torch.mul, "{}·{}"),
    "div": (2, torch.div, "{} / {}"),
    "aq": (2, lambda a, b: a / (1 + b * b).sqrt(), "{} / √(1 + {}²)"),
    "square": (1, torch.square, "{}²"),
    "abs": (1, torch.abs, "|{}|"),
    "sin": (1, torch.sin, "sin {}"),
    "cos": (1, torch.cos, "cos {}"),
    "exp": (1, torch.exp, "exp {}"),
    "tanh": (1, torch.tanh, "tanh {}"),
}

#: What a program does, in order: ("x", i) puts a variable on the stack, ("c", i) a constant, (operator, 0) applies it.
Program = list[tuple[str, int]]


def compiled(trees: Sequence[Tree], variables: int) -> tuple[list[Program], list[float]]:
    """A program for each tree, and the constants of all of them in order. ValueError for what is no such tree."""
    constants: list[float] = []
    programs: list[Program] = []
    for tree in trees:
        programs.append([])
        _compile(tree, variables, programs[-1], constants)
    return programs, constants


def run(program: Program, variables: Sequence[Tensor], constants: Tensor) -> Tensor:
    """The value of a program at variables of one shape."""
    stack: list[Tensor] = []
    for what, index in program:
        if what == "x":
            stack.append(variables[index])
        elif what == "c":
            stack.append(constants[index].expand_as(variables[0]))
        else:
            arity, function, _ = OPERATORS[what]
            arguments = stack[-arity:]
            del stack[-arity:]
            stack.append(function(*arguments))
    return stack[0]


def nodes(tree: Tree) -> int:
    """How many numbers, variables and operators a tree has."""
    return 1 + sum(nodes(branch) for branch in tree[1:]) if isinstance(tree, list) else 1


def with_constants(tree: Tree, constants: Sequence[float]) -> Tree:
    """The tree with other numbers, in order."""
    waiting = list(constants)

    def again(branch: Tree) -> Tree:
        if isinstance(branch, list):
            return [branch[0], *(again(each) for each in branch[1:])]
        return branch if isinstance(branch, str) else waiting.pop(0)

    return again(tree)


def written(tree: Tree) -> str:
    """The tree as a person writes it, numbers to four digits."""
    if isinstance(tree, list):
        inside = [written(branch) for branch in tree[1:]]
        single = tree[0] not in ("add", "sub", "mul")
        inside = [
            f"({text})" if single and isinstance(b, list) else text for text, b in zip(inside, tree[1:], strict=True)
        ]
        if tree[0] in ("add", "sub") and isinstance(tree[1], list) and tree[1][0] in ("add", "sub"):
            inside[0] = inside[0][1:-1]  # a sum is read from the left
        return OPERATORS[tree[0]][2].format(*inside)
    return tree if isinstance(tree, str) else f"{tree:.4g}"


def _compile(tree: Tree, variables: int, program: Program, constants: list[float]) -> None:
    if isinstance(tree, bool) or tree is None:
        raise ValueError(f"an equation cannot hold {tree!r}")
    if isinstance(tree, int | float):
        program.append(("c", len(constants)))
        constants.append(float(tree))
    elif isinstance(tree, str):
        number = tree[1:]
        if not tree.startswith("x") or not number.isdecimal() or int(number) >= variables:
            raise ValueError(f"{tree!r} is none of the variables x0 to x{variables - 1} that inputs={variables} gives")
        program.append(("x", int(number)))
    else:
        name = tree[0] if isinstance(tree, list) and tree else tree
        if not isinstance(name, str) or name not in OPERATORS or len(tree) != 1 + OPERATORS[name][0]:
            raise ValueError(f"{tree!r} is no operator with its arguments; there are {', '.join(OPERATORS)}")
        for branch in tree[1:]:
            _compile(branch, variables, program, constants)
        program.append((name, 0))
