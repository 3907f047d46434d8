"""Equations between projections against plain Python, and the trees they are made of."""

from __future__ import annotations

import math

import pytest
import torch

from layersmith import catalogue
from layersmith.ffn.equations import Equations
from layersmith.ffn.shared.expressions import OPERATORS, compiled, nodes, run, with_constants, written

pytestmark = pytest.mark.oracle("equations")

TREES = [
    ["add", ["mul", 0.5, "x0"], ["sub", ["sin", "x1"], 2.0]],
    ["div", ["square", "x2"], ["add", ["exp", ["abs", "x0"]], 1]],
    ["aq", ["tanh", "x1"], ["cos", "x2"]],
    "x1",
    -3.5,
]


def by_hand(tree, z):
    if isinstance(tree, str):
        return z[int(tree[1:])]
    if not isinstance(tree, list):
        return float(tree)
    a, *rest = [by_hand(branch, z) for branch in tree[1:]]
    return {
        "add": lambda: a + rest[0],
        "sub": lambda: a - rest[0],
        "mul": lambda: a * rest[0],
        "div": lambda: a / rest[0],
        "aq": lambda: a / math.sqrt(1 + rest[0] ** 2),
        "square": lambda: a * a,
        "abs": lambda: abs(a),
        "sin": lambda: math.sin(a),
        "cos": lambda: math.cos(a),
        "exp": lambda: math.exp(a),
        "tanh": lambda: math.tanh(a),
    }[tree[0]]()


def test_equals_plain_python() -> None:
    torch.manual_seed(0)
    part = Equations(6, 3, TREES).double().requires_grad_(False)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    found = part(x)
    for row, y in zip(x.reshape(-1, 6), found.reshape(-1, 6), strict=True):
        z = [
            sum(float(w) * float(v) for w, v in zip(weights, row, strict=True)) + float(bias)
            for weights, bias in zip(part.read.weight, part.read.bias, strict=True)
        ]
        u = [by_hand(tree, z) for tree in TREES]
        expected = [
            sum(float(w) * v for w, v in zip(weights, u, strict=True)) + float(bias)
            for weights, bias in zip(part.write.weight, part.write.bias, strict=True)
        ]
        assert y.tolist() == pytest.approx(expected, abs=1e-10)


def test_every_operator_is_in_the_oracle() -> None:
    used = " ".join(map(str, TREES))
    assert all(name in used or name in ("mul",) for name in OPERATORS)


def test_numbers_are_parameters_that_learn_and_are_saved() -> None:
    part = Equations(4, 2, [["mul", 2.0, "x0"]])
    assert part.constants.tolist() == [2.0]
    part(torch.randn(3, 4)).sum().backward()
    assert part.constants.grad.abs().max() > 0
    again = catalogue.build(part.spec())
    part.constants.data.fill_(7.0)
    again.load_state_dict(part.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(again(x), part(x))


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ("x2", "x0 to x1"),
        ("y", "x0 to x1"),
        (["pow", "x0", 2], "no operator"),
        (["sin", "x0", "x1"], "no operator"),
        ([], "no operator"),
        ({"a": 1}, "no operator"),
        (True, "cannot hold"),
        (["sin", None], "cannot hold"),
        (["__import__", "x0"], "no operator"),
    ],
)
def test_what_is_no_tree_is_refused(tree, told) -> None:
    with pytest.raises(ValueError, match=told):
        Equations(4, 2, [tree])


def test_trees_are_counted_written_and_given_other_numbers() -> None:
    tree = ["add", ["mul", 0.5, "x0"], ["square", ["sub", "x1", 2.0]]]
    assert nodes(tree) == 8
    assert written(tree) == "(0.5·x0 + ((x1 - 2))²)"
    assert written(["sub", ["add", 1.0, "x0"], ["sub", "x1", "x2"]]) == "(1 + x0 - (x1 - x2))"
    assert written(["mul", ["add", 1.0, "x0"], "x1"]) == "(1 + x0)·x1"
    other = with_constants(tree, [1.0, 3.0])
    assert compiled([other], 2)[1] == [1.0, 3.0]
    assert compiled([tree], 2)[1] == [0.5, 2.0]
    (program,), numbers = compiled([tree], 2)
    z = torch.tensor([[2.0, 5.0]])
    assert run(program, z.unbind(-1), torch.tensor(numbers)).tolist() == [10.0]
