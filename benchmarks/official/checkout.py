"""A checkout of somebody's repository: its commit, and its files, or parts of them, as modules without its packages."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any


def commit(checkout: Path) -> str:
    asked = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    return asked.stdout.strip()


def load(checkout: Path, file: str, name: str | None = None) -> Any:
    """The module in a file of the checkout; under a dotted `name` its relative imports work."""
    name = name or f"theirs_{Path(file).stem}"
    spec = importlib.util.spec_from_file_location(name, checkout / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def empty_package(name: str, folder: Path) -> None:
    """A package of that name whose own __init__ is not run (it may need what is not installed)."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def pieces(path: Path, names: list[str], header: str) -> types.ModuleType:
    """A module of the named functions and classes of a file, with `header` in place of the file's imports."""
    source = path.read_text(encoding="utf-8")
    found = {n.name: n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    chosen = [ast.get_source_segment(source, found[name]) or "" for name in names]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "released_pieces.py"
        file.write_text("\n\n".join([header, *chosen]), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("released_pieces", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module
