"""Finds, describes and builds the parts of the one explicit table, `parts/`: name -> class, resolved when asked for.

Importing the catalogue imports no operator, and what it tells about a part is read from the part's file without
running it, so one broken part never breaks the others.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from layersmith import evidence, facts
from layersmith.errors import UserError, suggest
from layersmith.papers import named
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
#: Whether code of the user's own may be imported; see `trusting`.
_TRUSTED: ContextVar[bool] = ContextVar("trusted", default=False)


def entry(name: str) -> Entry:
    """The entry of that name; a UserError with the closest names otherwise."""
    if name not in ENTRIES:
        raise UserError(f"The catalogue has no part {name!r}. {suggest(name, list(ENTRIES))}")
    return ENTRIES[name]


def check_family(name: str, family: str) -> None:
    """Raise a UserError, with the nearest names, unless there is a part of that name and family."""
    if name in ENTRIES and ENTRIES[name].family != family:
        raise UserError(f"{name!r} is of the family {ENTRIES[name].family!r}; a {family} is needed here.")
    if name not in ENTRIES:
        known = [key for key, found in ENTRIES.items() if found.family == family]
        raise UserError(f"The catalogue has no {family} {name!r}. {suggest(name, known)}")


def resolve(name: str, trust_remote_code: bool = False) -> type[Any]:
    """The class behind a catalogue name, or behind "package.module:Class" when the caller trusts that code."""
    if ":" in name:
        if not (trust_remote_code or _TRUSTED.get()):
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


@contextmanager
def trusting(trust_remote_code: bool) -> Iterator[None]:
    """Within it "package.module:Class" may be imported, if so asked: a block builds its parts in its constructor."""
    before = _TRUSTED.set(trust_remote_code or _TRUSTED.get())
    try:
        yield
    finally:
        _TRUSTED.reset(before)


def build(spec: dict[str, Any], trust_remote_code: bool = False) -> Any:
    """A freshly initialised part from its spec, e.g. {"name": "glu", "d_model": 256, "d_hidden": 512}.

    trust_remote_code   whether "package.module:Class" may be imported; for a block, by the parts inside it too
    """
    if "name" not in spec:
        raise UserError(f"A spec needs a 'name'; this one has {sorted(spec)}.")
    config = {k: v for k, v in spec.items() if k != "name"}
    part = resolve(spec["name"], trust_remote_code)
    try:
        with trusting(trust_remote_code):
            return part(**config)
    except TypeError as error:
        raise UserError(f"The part {spec['name']!r} does not take this configuration: {error}.") from error
    except ValueError as refused:
        raise UserError(str(refused)) from refused


def documentation(name: str) -> str:
    """The text that opens the part's file: idea, equation, shapes, paper, differences from the paper."""
    return facts.of(entry(name).target).opening


def summary(name: str) -> str:
    """The first sentence of the documentation, on one line."""
    return re.split(r"(?<=\.) (?=[A-Z])", facts.of(entry(name).target).first_line)[0]


def as_json() -> list[dict[str, Any]]:
    """One record for each part: name, kind (its family), class, summary, where it can stand, state, evidence, papers.

    state    {"is": "working"}, or {"is": "partly", "missing": what of its papers is not there}
    papers   {"id": ..., "arxiv": id or None, "title": ...} each
    """
    return [
        {
            "name": name,
            "kind": found.family,
            "class": found.target,
            "summary": summary(name),
            "stands_at": list(STANDS_AT[found.family]),
            "state": state(found.missing),
            "evidence": {"level": evidence.of(name).level, "rungs": list(evidence.of(name).rungs)},
            "papers": named(found.papers),
        }
        for name, found in ENTRIES.items()
    ]


def state(missing: str) -> dict[str, str]:
    """How much of its papers is there: all of it, or part of it and what is missing."""
    return {"is": "partly", "missing": missing} if missing else {"is": "working"}
