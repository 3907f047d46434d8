"""The tools and surveys, one per file. This table is the only list of them; a class is imported when it is asked for.

A tool explains one site by a module that can stand in its place; a survey looks at all sites in one pass.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from layersmith import facts
from layersmith.errors import UserError, suggest

if TYPE_CHECKING:
    from layersmith.explaining.survey import Survey
    from layersmith.explaining.tool import Tool

_OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")

TOOLS: dict[str, str] = {
    "statistics": "layersmith.explaining.statistics:Statistics",
    "lens": "layersmith.explaining.lens:Lens",
    "dictionary": "layersmith.explaining.dictionary:Dictionary",
    "formula": "layersmith.explaining.formula:Formula",
    "slime": "layersmith.explaining.slime:Slime",
    "circuit": "layersmith.explaining.circuit:Circuit",
    "decompose": "layersmith.explaining.decompose:Decompose",
    "bounds": "layersmith.explaining.bounds:Bounds",
    "edges": "layersmith.explaining.edges:Edges",
    "orderings": "layersmith.explaining.orderings:Orderings",
    "calibration": "layersmith.explaining.calibration:Calibration",
    "steering": "layersmith.explaining.steering:Steering",
    "overlap": "layersmith.explaining.overlap:Overlap",
    "bigrams": "layersmith.explaining.bigrams:Bigrams",
    "unlearning": "layersmith.explaining.unlearning:Unlearning",
    "wires": "layersmith.explaining.wires:Wires",
    "squashing": "layersmith.explaining.squashing:Squashing",
    "relations": "layersmith.explaining.relations:Relations",
    "painters": "layersmith.explaining.painters:Painters",
    "fp4": "layersmith.explaining.fp4:FP4Map",
}


def check_tool(name: str) -> None:
    """Raise a UserError, with the closest names, for a name that is no tool's. Imports nothing.

    A tool of one's own is named "package.module:Class".
    """
    if name not in TOOLS and not _OWN.fullmatch(name):
        raise UserError(f"Unknown tool {name!r}. {suggest(name, list(TOOLS))}")


def check_settings(name: str, given: Collection[str]) -> None:
    """Raise a UserError for a setting that the tool of that name does not have: its file says so, or else its class.

    A tool of one's own is asked when it is run.
    """
    if name in TOOLS and given:
        written = facts.of(TOOLS[name]).keys.get("settings")
        _check_settings(name, given, get(name).settings if written is None else written)


def _check_settings(tool: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            near = suggest(name, list(known)) if known else "It has none."
            raise UserError(f"The tool {tool!r} has no setting {name!r}. {near}")


def get(name: str) -> Tool | Survey:
    """The tool or survey of that name, or of one's own module. Raises UserError where there is none."""
    check_tool(name)
    module_name, _, class_name = TOOLS.get(name, name).partition(":")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        if name in TOOLS:
            raise
        raise UserError(f"There is no tool at {name!r} ({error}). Write it as package.module:Class.") from error
    made: Tool | Survey = found()
    return made


def settings_of(tool: Tool | Survey, given: dict[str, Any]) -> dict[str, Any]:
    """The tool's settings with what the user gave in place of the defaults, text read as the default's type.

    Raises UserError for a setting that the tool does not have, and for text that is no such value.
    """
    _check_settings(tool.name, given, tool.settings)
    return {**tool.settings, **{name: _read(name, value, tool.settings[name]) for name, value in given.items()}}


def _read(name: str, value: Any, default: Any) -> Any:
    kind = type(default)
    if isinstance(value, str) and kind is bool:
        value = {"true": True, "false": False}.get(value.lower(), value)
    elif (isinstance(value, str) and kind in (int, float)) or (isinstance(value, int) and kind is float):
        with suppress(ValueError):
            value = kind(value)
    if default is not None and type(value) is not kind:
        raise UserError(f"The setting {name} is to be like {default!r} ({kind.__name__}), not {value!r}.")
    return value
