"""What stands outside the package and is run by hand imports only what the package has.

Benchmarks take hours and need other libraries, so no test runs them all: without this a name that moves breaks them
unseen.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("benchmarks", "docs", "examples", "scripts")
SCRIPTS = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def taken(source: str) -> list[tuple[str, str]]:
    """(module, name) of everything a source text imports from layersmith."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "layersmith":
            found += [(node.module or "", alias.name) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "layersmith"]
    return found


def is_there(module: str, name: str) -> bool:
    """Whether the module has the name; one that needs a library which is missing here cannot be asked."""
    try:
        room = importlib.import_module(module)
    except ModuleNotFoundError as error:
        return not (error.name or "").startswith("layersmith")
    if not name or hasattr(room, name):
        return True
    return hasattr(room, "__path__") and importlib.util.find_spec(f"{module}.{name}") is not None


def test_a_name_that_moved_is_noticed() -> None:
    assert taken("def f():\n    from layersmith.api import load\n") == [("layersmith.api", "load")]
    assert is_there("layersmith.api", "load")
    assert is_there("layersmith", "anatomy")
    assert not is_there("layersmith.api", "loaded")
    assert not is_there("layersmith.apis", "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_it_imports_what_there_is(script: Path) -> None:
    missing = [where for where in taken(script.read_text(encoding="utf-8")) if not is_there(*where)]
    assert not missing
