"""The size of things, read off the source: files to read in one go, functions on one screen, calls one can follow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILES = sorted(
    p for folder in ("src", "tests", "benchmarks", "scripts", "docs", "examples") for p in (ROOT / folder).rglob("*.py")
)
SOURCE = [p for p in FILES if ROOT / "src" in p.parents]

MOST_LINES = 300
MOST_LINES_OF_A_FUNCTION = 60
MOST_POSITIONAL_ARGUMENTS = 6


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_sizes() -> None:
    wrong = []
    for path in FILES:
        lines, tree = _read(path)
        if lines > MOST_LINES:
            wrong.append(f"{_name(path)} has {lines} lines: split it by what its parts do")
        long = [f"{f.name} ({_lines(f)} lines)" for f in _functions(tree) if _lines(f) > MOST_LINES_OF_A_FUNCTION]
        wrong += [f"{_name(path)}: split {function}" for function in long]
    assert not wrong


def test_many_arguments_have_names() -> None:
    wrong = []
    for path in SOURCE:
        calls = [node for node in ast.walk(_read(path)[1]) if isinstance(node, ast.Call)]
        many = [c for c in calls if len(c.args) > MOST_POSITIONAL_ARGUMENTS and not _takes_only_places(c)]
        wrong += [f"{_name(path)}, line {call.lineno}" for call in many]
    assert not wrong, f"more than {MOST_POSITIONAL_ARGUMENTS} positional arguments"


def test_the_rules_find_what_they_forbid() -> None:
    tree = ast.parse('def f(x):\n    """one\n    two"""\n    return x\n\nf(1, 2, 3, 4, 5, 6, 7)\n')
    assert [(f.name, _lines(f)) for f in _functions(tree)] == [("f", 2)]
    (call,) = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert len(call.args) > MOST_POSITIONAL_ARGUMENTS
    assert not _takes_only_places(call)
    assert len(FILES) > 900
    assert len(SOURCE) > 400


@cache
def _read(path: Path) -> tuple[int, ast.Module]:
    """Number of lines, and the syntax tree."""
    text = path.read_text(encoding="utf-8")
    return len(text.splitlines()), ast.parse(text)


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Of the function without its docstring: documentation may be as long as it needs."""
    first = function.body[0]
    documented = (first.end_lineno or 0) - first.lineno + 1 if ast.get_docstring(function) is not None else 0
    return (function.end_lineno or 0) - function.lineno + 1 - documented


def _takes_only_places(call: ast.Call) -> bool:
    """Whether its arguments cannot be named, or are all of one kind: Triton launches, table rows, markup, torch's."""
    if isinstance(call.func, ast.Subscript):
        return True
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name in ("add_row", "tag", "chart", "batch_norm")
