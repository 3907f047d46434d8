"""Loads the parts of released code that a comparison needs, without what the rest of it imports."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType


def pieces(path: Path, names: list[str], header: str) -> ModuleType:
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


def commit(checkout: Path) -> str:
    """The commit that is checked out."""
    run = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return run.stdout.strip()
