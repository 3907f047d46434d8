"""What the file of a class says about it, read without running it.

    facts.of("layersmith.refitting.methods.prune.width:Width").stated["papers"]

A search, a list and the answer to a misspelt name need sentences and the ids of papers, not the classes: to import all
that can be run takes seconds. What is not written out in the class itself (inherited, or computed) is not seen;
`tests/test_facts.py` holds every table to what is read here.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Facts:
    """
    opening  the text that opens the file
    stated   attribute of the class -> value, where it is written out
    keys     attribute of the class that is a dict -> its keys, where these are written out, be it as the fields of a
             dataclass: `settings = asdict(Recipe())`
    """

    opening: str
    stated: dict[str, Any]
    keys: dict[str, list[str]]

    @property
    def papers(self) -> tuple[str, ...]:
        """Ids of source papers."""
        return tuple(self.stated.get("papers", ()))

    @property
    def first_line(self) -> str:
        """The first paragraph, on one line."""
        return " ".join(self.opening.partition("\n\n")[0].split())


@cache
def of(target: str) -> Facts:
    """The facts about "package.module:Class"; of a function, or of a module alone, there is the opening text."""
    module, _, name = target.partition(":")
    tree = _tree(module)
    found = Facts(ast.get_docstring(tree) or "", {}, {})
    for attribute, value in _assigned(tree, name):
        with suppress(ValueError):
            found.stated[attribute] = ast.literal_eval(value)
        with suppress(ValueError):
            found.keys[attribute] = _keys(tree, value)
    return found


def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)  # imports the packages above the module, which hold nothing heavy
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"There is no module {module!r}.")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _keys(tree: ast.Module, value: ast.expr) -> list[str]:
    """The keys that an expression writes out; ValueError for one that does not."""
    match value:
        case ast.Dict(keys=keys):
            return [ast.literal_eval(key) for key in keys if key is not None]
        case ast.Call(func=ast.Name(id="asdict"), args=[ast.Call(func=ast.Name(id=name), args=[], keywords=[])]):
            return _fields(_home(tree, name), name)
    raise ValueError("not written out")


def _fields(tree: ast.Module, name: str) -> list[str]:
    """Of the dataclass of that name."""
    bodies = [owner.body for owner in tree.body if isinstance(owner, ast.ClassDef) and owner.name == name]
    annotated = [node.target for body in bodies for node in body if isinstance(node, ast.AnnAssign)]
    return [target.id for target in annotated if isinstance(target, ast.Name)]


def _home(tree: ast.Module, name: str) -> ast.Module:
    """The file that a name of this one is imported from, or this one."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and name in [alias.name for alias in node.names]:
            return _tree(node.module)
    return tree


def _assigned(tree: ast.Module, name: str) -> Iterator[tuple[str, ast.expr]]:
    """Attributes of the class of that name, and the expressions that give them their values."""
    for owner in tree.body:
        if isinstance(owner, ast.ClassDef) and owner.name == name:
            for node in owner.body:
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                    yield node.targets[0].id, node.value
                elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
                    yield node.target.id, node.value
