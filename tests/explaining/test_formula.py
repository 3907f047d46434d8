"""The tool `formula`: a planted polynomial is found exactly, the choice follows the front, a missing engine is told."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import nn

import layersmith
from layersmith.errors import MissingExtra, UserError
from layersmith.explaining.formula import Formula, Projected
from layersmith.explaining.formulas import engine
from layersmith.explaining.formulas.choice import chosen, error, fitted, front
from layersmith.explaining.formulas.directions import Directions
from layersmith.explaining.pipeline import explain, shuffled
from layersmith.explaining.tool import Observed
from layersmith.ffn.shared.expressions import compiled, nodes, run

SETTINGS = {**Formula.settings, "inputs": 3, "outputs": 2, "rows": 512, "generations": 40, "longest": 15}


class Planted(nn.Module):
    """Of six channels three matter: two outputs, a product and a square, along directions of their own."""

    def forward(self, x):
        a, b, c = x[..., 0], x[..., 1], x[..., 2]
        y = torch.zeros_like(x)
        y[..., 0] = 4.0 * a * b
        y[..., 1] = c * c - 0.5 * c
        return y


def observed(rows: int = 2000, seed: int = 0) -> Observed:
    """Rows in all four signs of the first two channels: so the principal directions are the channels, exactly."""
    draws = torch.Generator().manual_seed(seed)
    quarter = torch.randn(rows // 4, 3, generator=draws) * torch.tensor([3.0, 2.0, 1.0])
    signs = torch.tensor([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [-1.0, -1.0, 1.0]])
    x = torch.nn.functional.pad((quarter[:, None] * signs).flatten(0, 1), (0, 3))
    return Observed(x, Planted()(x), None, Planted())


def numbers(count: int = 400):
    x = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x, 1.5 * x[:, 0] * x[:, 1] + 0.25


def test_numbers_are_fitted_and_the_shortest_of_the_best_is_taken() -> None:
    x, y = numbers()
    exact = ["add", ["mul", 1.0, ["mul", "x0", "x1"]], 0.0]
    longer = ["add", ["add", ["mul", 1.0, ["mul", "x0", "x1"]], 0.1], ["mul", 0.3, ["sub", "x0", "x0"]]]
    shorter = ["mul", 1.0, "x0"]
    trees = [fitted(tree, x, y) for tree in (longer, exact, shorter)]
    assert trees[1][1][1] == pytest.approx(1.5, abs=1e-8)
    assert trees[1][2] == pytest.approx(0.25, abs=1e-8)
    found = front([0.0, *trees], x, y)
    assert [nodes(tree) for _, tree in found] == sorted(nodes(tree) for _, tree in found)
    assert [wrong for wrong, _ in found] == sorted((wrong for wrong, _ in found), reverse=True)
    wrong, best = chosen(found)
    assert best is trees[1]
    assert wrong < 1e-12


def test_a_little_more_error_is_taken_for_a_shorter_equation_and_much_more_is_not() -> None:
    assert chosen([(0.9, "a"), (0.14, "b"), (0.1, "c")]) == (0.14, "b")
    assert chosen([(0.9, "a"), (0.16, "b"), (0.1, "c")]) == (0.1, "c")
    assert chosen([(0.9, "a"), (3e-11, "b"), (1e-13, "c")]) == (3e-11, "b")


def test_what_gives_no_number_is_on_no_front() -> None:
    x, y = numbers()
    bad = ["div", "x0", ["sub", "x1", "x1"]]
    assert error(bad, x, y) == float("inf")
    assert [tree for _, tree in front([bad, 0.25], x, y)] == [0.25]


def test_the_projections_are_those_of_principal_directions() -> None:
    seen = observed()
    read = Directions.of(seen.inputs, 3)
    z = read.into(seen.inputs.double())
    assert torch.allclose(z.T @ z / len(z), torch.eye(3, dtype=torch.float64), atol=1e-6)
    assert read.explained == pytest.approx(1.0)
    back = read.back(z)
    assert float((back - seen.inputs).norm() / seen.inputs.norm()) < 1e-5
    whole = Projected(seen.module, Directions.of(seen.inputs, 6), Directions.of(seen.outputs, 6))
    assert torch.allclose(whole(seen.inputs), seen.outputs, atol=1e-3)
    thin = Projected(seen.module, Directions.of(seen.inputs, 1), Directions.of(seen.outputs, 1))
    assert float((thin(seen.inputs) - seen.outputs).norm() / seen.outputs.norm()) > 0.5


def test_a_missing_engine_is_told_before_any_work(monkeypatch, llama, tokenizer, tmp_path) -> None:
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", _only("pyoperon", missing, importlib.import_module))
    with pytest.raises(MissingExtra, match=r"pip install '.\[formula\]'"):
        explain(llama, tool="formula", tokenizer=tokenizer, tokens=256, progress=False, out=tmp_path / "o")
    assert not (tmp_path / "o").exists()


def _only(prefix, instead, otherwise):
    return lambda name, *rest: instead(name) if name.startswith(prefix) else otherwise(name, *rest)


def test_wrong_settings_are_told_in_words() -> None:
    with pytest.raises(UserError, match="rows must be at least 64"):
        Formula().check({**SETTINGS, "rows": 10})


def test_the_nodes_of_the_engine_become_a_tree() -> None:
    """pyoperon writes a tree in postfix, the last argument first, and has a factor on every variable."""

    class Node:
        def __init__(self, name, arity=0, value=1.0, variable=False):
            self.Name, self.Arity, self.Value = name, arity, value
            self.IsVariable, self.IsConstant, self.HashValue = variable, not (arity or variable), 7

    made = [Node("c", value=3.0), Node("x", value=2.0, variable=True), Node("-", 2)]
    assert engine._tree(made, {7: 4}) == ["sub", ["mul", 2.0, "x4"], 3.0]
    assert engine._tree([Node("x", variable=True), Node("square", 1)], {7: 0}) == ["square", "x0"]
    assert engine._applied("add", ["x0", "x1", "x2"]) == ["add", ["add", "x0", "x1"], "x2"]


def test_factors_come_together_in_front() -> None:
    two, three = ["mul", 2.0, "x0"], ["mul", 3.0, "x1"]
    assert engine.simplified(["mul", two, three]) == ["mul", 6.0, ["mul", "x0", "x1"]]
    assert engine.simplified(["mul", 0.25, ["square", two]]) == ["square", "x0"]
    assert engine.simplified(["add", ["mul", 2.0, 3.0], ["sub", 4.0, 1.0]]) == 9.0
    assert engine.simplified(["add", three, ["sub", 1.0, 1.0]]) == three
    assert engine.simplified(["sub", ["tanh", ["mul", 1.0, "x0"]], two]) == ["sub", ["tanh", "x0"], two]
    tree = ["aq", ["mul", ["square", two], ["add", three, -1.0]], ["sin", ["sub", 1.0, two]]]
    x = torch.randn(20, 2, dtype=torch.float64)
    assert error(engine.simplified(tree), x, _value(tree, x)) < 1e-20


def _value(tree, x):
    (program,), numbers = compiled([tree], 2)
    return run(program, x.unbind(-1), torch.tensor(numbers, dtype=torch.float64))


def test_a_planted_polynomial_is_found_exactly() -> None:
    pytest.importorskip("pyoperon")
    seen = observed()
    found = Formula().explain(seen, SETTINGS, lambda share: None)
    found.module.requires_grad_(False)
    fresh = observed(1000, seed=1).inputs
    wrong = (found.module(fresh) - Planted()(fresh)).norm() / Planted()(fresh).norm()
    assert float(wrong) < 1e-4
    assert found.size["nodes"] <= 20
    control = Formula().explain(shuffled(seen, 0), SETTINGS, lambda share: None)
    control.module.requires_grad_(False)
    apart = (control.module(fresh) - Planted()(fresh)).norm() / (Planted()(fresh) - Planted()(fresh).mean(0)).norm()
    assert float(apart) > 0.9
    again = Formula().explain(seen, SETTINGS, lambda share: None)
    assert again.pages["equations"] == found.pages["equations"]


def test_a_formula_is_judged_swapped_and_saved(llama, tokenizer, tmp_path) -> None:
    pytest.importorskip("pyoperon")
    settings = {"inputs": 4, "outputs": 2, "rows": 128, "generations": 2, "longest": 9}
    result = explain(
        llama,
        tool="formula",
        sites="layers.1.ffn",
        tokenizer=tokenizer,
        tokens=512,
        progress=False,
        out=tmp_path / "o",
        settings=settings,
    )
    table = result["sites"][0]["table"]
    assert list(table) == [
        "explanation",
        "passed_on",
        "projected",
        "zero",
        "mean",
        "linear",
        "rank_r",
        "shuffled",
    ]
    assert result["sites"][0]["rank"] == 2
    assert result.modules["layers.1.ffn"].spec()["name"] == "equations"
    with layersmith.swap(llama, result.modules):
        assert torch.isfinite(llama(torch.arange(9)[None]).logits).all()
    page = (tmp_path / "o" / "report.html").read_text()
    assert "The equations" in page
    assert "control: what enters, as it is" in page
