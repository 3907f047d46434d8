"""Finds, describes and builds the parts of the one explicit table, `parts.py`: name -> class, resolved when asked for.

Importing the catalogue imports no operator, and what it tells about a part is read from the part's file without
running it, so one broken part never breaks the others.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

from layersmith import evidence
from layersmith.errors import UserError, suggest
from layersmith.papers import papers
from layersmith.parts import ENTRIES, Entry

#: Where a part of each family can stand: kinds of sites, single weight matrices, whole models.
STANDS_AT = {
    "ffn": ("ffn", "mixer", "block"),
    "mixer": ("mixer",),
    "norm": ("norm",),
    "block": ("block",),
    "linear": ("weight matrix",),
    "scheme": ("whole model",),
}


def entry(name: str) -> Entry:
    """The entry of that name; a UserError with the closest names otherwise."""
    if name not in ENTRIES:
        raise UserError(f"The catalogue has no part {name!r}. {suggest(name, list(ENTRIES))}")
    return ENTRIES[name]


def resolve(name: str, trust_remote_code: bool = False) -> type[Any]:
    """The class behind a catalogue name, or behind "package.module:Class" when the caller trusts that code."""
    if ":" in name:
        if not trust_remote_code:
            raise UserError(
                f"The part {name!r} is not in the catalogue: it is Python code of its own, and importing it runs it. "
                f"Pass trust_remote_code=True (or --trust-remote-code) if you trust it."
            )
        target = name
    else:
        target = entry(name).target
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UserError(f"Cannot import {module_name!r} for the part {name!r}: {error}.") from error
    found = getattr(module, class_name, None)
    from layersmith.contract import Configured  # brings torch, which a search or a misspelt name does not need

    if not (isinstance(found, type) and issubclass(found, Configured)):
        raise UserError(f"{target!r} is not an operator class (a subclass of a layersmith.contract family).")
    return found


def build(spec: dict[str, Any], trust_remote_code: bool = False) -> Any:
    """A freshly initialised part from its spec, e.g. {"name": "glu", "d_model": 256, "d_hidden": 512}."""
    if "name" not in spec:
        raise UserError(f"A spec needs a 'name'; this one has {sorted(spec)}.")
    config = {k: v for k, v in spec.items() if k != "name"}
    part = resolve(spec["name"], trust_remote_code)
    try:
        return part(**config)
    except TypeError as error:
        raise UserError(f"The part {spec['name']!r} does not take this configuration: {error}.") from error
    except ValueError as refused:
        raise UserError(str(refused)) from refused


def documentation(name: str) -> str:
    """The text that opens the part's file: idea, equation, shapes, paper, differences from the paper."""
    module_name = entry(name).target.partition(":")[0]
    spec = importlib.util.find_spec(module_name)
    if spec is None or spec.origin is None:
        raise UserError(f"The part {name!r} has no source file: {module_name!r} cannot be found.")
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""


def summary(name: str) -> str:
    """The first sentence of the documentation, on one line."""
    first = " ".join(documentation(name).partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z])", first)[0]


def search(query: str) -> list[str]:
    """The parts in which every word of the query occurs: in name, family, file's text, titles and ideas of papers."""
    words = query.lower().split()
    return [name for name in ENTRIES if all(word in _text(name) for word in words)]


def _text(name: str) -> str:
    found = entry(name)
    read = [papers()[key] for key in found.papers]
    about = [f"{paper.id} {paper.title} {paper.mechanism}" for paper in read]
    return " ".join([name, found.family, found.target, documentation(name), *about]).lower()


def as_json() -> list[dict[str, Any]]:
    """One record for each part: name, family, class, one-line summary, where it can stand, paper ids, evidence."""
    return [
        {
            "name": name,
            "family": found.family,
            "class": found.target,
            "summary": summary(name),
            "stands_at": list(STANDS_AT[found.family]),
            "papers": list(found.papers),
            "evidence": {"level": evidence.of(name).level, "rungs": list(evidence.of(name).rungs)},
        }
        for name, found in ENTRIES.items()
    ]
