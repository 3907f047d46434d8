"""The size of things, read off the source: files to read in one go, functions on one screen, calls one can follow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_LINES, "split the file by what its parts do"
    long = [f"{f.name} ({_lines(f)} lines)" for f in _functions(text) if _lines(f) > MOST_LINES_OF_A_FUNCTION]
    assert not long, f"split: {', '.join(long)}"


@pytest.mark.parametrize("path", SOURCE, ids=_name)
def test_many_arguments_have_names(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    many = [c for c in calls if len(c.args) > MOST_POSITIONAL_ARGUMENTS and not _takes_only_places(c)]
    crowded = [f"line {call.lineno}" for call in many]
    assert not crowded, f"more than {MOST_POSITIONAL_ARGUMENTS} positional arguments: {', '.join(crowded)}"


def _functions(text: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


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
