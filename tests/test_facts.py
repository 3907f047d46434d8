"""What is read off a file is what its class says, for everything in the tables; nothing heavy is imported for it."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from layersmith import catalogue, facts
from layersmith.explaining.constructions import CONSTRUCTIONS
from layersmith.explaining.tools import TOOLS
from layersmith.racing.optimizers import OPTIMIZERS
from layersmith.racing.tasks import TASKS
from layersmith.refitting.heal.adapters import ADAPTERS
from layersmith.refitting.methods import METHODS

#: Table -> what is read of its classes.
READ = {
    "methods": (METHODS, ("name", "papers", "builds", "when_it_pays")),
    "adapters": (ADAPTERS, ("name", "papers", "summary")),
    "constructions": (CONSTRUCTIONS, ("name", "papers", "summary")),
    "tools": (TOOLS, ("name", "papers", "summary")),
    "tasks": (TASKS, ("name", "papers", "summary")),
    "optimizers": (OPTIMIZERS, ("name", "papers", "summary")),
}


@pytest.mark.parametrize("kind", READ)
def test_a_file_says_what_its_class_says(kind: str) -> None:
    table, attributes = READ[kind]
    for target in table.values():
        module, _, name = target.partition(":")
        found = getattr(importlib.import_module(module), name)
        for attribute in attributes:
            otherwise = () if attribute in ("papers", "builds") else None
            read = facts.of(target).stated.get(attribute, otherwise)
            assert read == getattr(found, attribute), f"{target}: write {attribute} out in the class itself"


@pytest.mark.parametrize("name", ["glu", "softmax_attention"])
def test_the_opening_text_is_the_modules(name: str) -> None:
    module = importlib.import_module(catalogue.entry(name).target.partition(":")[0])
    assert facts.of(catalogue.entry(name).target).opening == (module.__doc__ or "").strip()


def test_the_settings_of_constructions_and_tools_are_those_of_their_classes() -> None:
    for target in [*CONSTRUCTIONS.values(), *TOOLS.values()]:
        module, _, name = target.partition(":")
        settings = getattr(importlib.import_module(module), name).settings
        assert facts.of(target).keys.get("settings") == list(settings), f"{target}: write them out"


def test_what_is_not_written_out_is_not_there(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "recipe.py").write_text("class R:\n    steps: int = 3\n    lr: float = 0.1\n    count = 2\n")
    (tmp_path / "written.py").write_text(
        '"""First line\nof it.\n\nSecond."""\nfrom recipe import R\n'
        'class A:\n    papers = ("1",)\n    size = len("ab")\n'
        "class B(A):\n    name: str = 'b'\n    kind: str\n    settings = {'a': len('ab'), 'b': 2}\n"
        "class C:\n    settings = asdict(R())\nclass D:\n    settings = asdict(R(steps=4))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert facts.of("written:A").stated == {"papers": ("1",)}
    assert facts.of("written:B").stated == {"name": "b"}
    assert facts.of("written:B").keys == {"settings": ["a", "b"]}
    assert facts.of("written:C").keys == {"settings": ["steps", "lr"]}
    assert facts.of("written:D").keys == {}
    assert (facts.of("written:A").papers, facts.of("written:B").papers) == (("1",), ())
    assert facts.of("written:A").first_line == "First line of it."
    with pytest.raises(FileNotFoundError, match="nowhere"):
        facts.of("nowhere:A")


def test_answers_import_nothing_heavy() -> None:
    """Searching, listing papers, and saying what a misspelt name may have meant."""
    code = """
import sys
from layersmith import search, standing
from layersmith.errors import UserError
from layersmith.papers import papers

found = search.find("prune heads")
assert search.find("zyxwvut") == [] and found
for paper in papers().values():
    standing.paper_as_json(paper)
for wrong in ("gr_can", "zyxwvut", "9999.99999"):
    try:
        search.item_named(wrong)
    except UserError:
        continue
    raise SystemExit(f"{wrong} was found")
heavy = {"torch", "transformers", "numpy"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
