"""What the file of a class says about it, read without running it.

    facts.of("layersmith.refitting.methods.prune.width:Width").stated["papers"]

A search, a list and the answer to a misspelt name need sentences and the ids of papers, not the classes: to import all
that can be run takes seconds. What is not written out in the class itself (inherited, or computed) is not seen;
`tests/test_facts.py` holds every table to what is read here.
"""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Facts:
    """opening: the text that opens the file; stated: attribute of the class -> value, where it is written out."""

    opening: str
    stated: dict[str, Any]

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
    spec = importlib.util.find_spec(module)  # imports the packages above the module, which hold nothing heavy
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"There is no module {module!r}.")
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    bodies = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return Facts(ast.get_docstring(tree) or "", _written_out(bodies[0]) if bodies else {})


def _written_out(body: list[ast.stmt]) -> dict[str, Any]:
    found = {}
    for node in body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        value = getattr(node, "value", None)
        if isinstance(target, ast.Name) and value is not None:
            try:
                found[target.id] = ast.literal_eval(value)
            except ValueError:
                continue
    return found
