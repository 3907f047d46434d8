"""The worked examples in the operators' docstrings give what they say, and stay out of the list of arguments."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from layersmith import catalogue, describe

SOURCE = Path(__file__).resolve().parents[1] / "src" / "layersmith"
FAMILIES = ("ffn", "norm", "mixer", "linear", "block")


def modules() -> list[str]:
    """The modules of the operator families with an example in them, found without importing any."""
    files = [path for family in FAMILIES for path in sorted((SOURCE / family).glob("*.py"))]
    return [f"layersmith.{p.parent.name}.{p.stem}" for p in files if ">>> " in p.read_text(encoding="utf-8")]


@pytest.mark.parametrize("module", modules())
def test_examples_give_what_they_say(module: str) -> None:
    ran = doctest.testmod(importlib.import_module(module))  # prints what differs
    assert ran.attempted  # otherwise the example stands where doctest does not look
    assert not ran.failed


@pytest.mark.parametrize("name", [n for n, entry in catalogue.ENTRIES.items() if entry.family in FAMILIES])
def test_the_example_is_told_apart_from_the_arguments(name: str) -> None:
    told = describe.arguments(name)
    assert told
    assert ">>>" not in told
    module = catalogue.resolve(name).__module__
    assert (">>>" in describe.worked_example(name)) == (module in modules())
