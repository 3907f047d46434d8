"""The catalogue, the operator files, the methods and the source papers tell of the same things."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from layersmith import catalogue
from layersmith.papers import papers
from layersmith.refitting import methods

SOURCE = Path(__file__).resolve().parents[1] / "src" / "layersmith"
FAMILIES = ("ffn", "norm", "mixer", "linear")
#: What models are made of before anything is replaced, and taking out: no method is needed to put these in place.
STOCK = {"identity", "mlp", "glu", "layer_norm", "rms_norm"}
#: The papers on feed-forwards and norms whose mechanisms have to stand in the catalogue.
BUILT = """
P007 P009 P020 P024 P034 P046 P048 P084 P086 P089 P119 P219 P222 P270 P284 P289 P291 P294 P297 P343 P350 P358 P361 P382
P075 P076 P079 P182 P292 P293 P296 P315 P318 P348
P053 P142 P155 P167 P180 P208 P144 P181 P242 P321
"""


def files() -> list[Path]:
    return [p for family in FAMILIES for p in sorted((SOURCE / family).glob("*.py")) if p.stem != "__init__"]


def operators(path: Path) -> dict[str, str]:
    """Catalogue name -> "module:Class" of the operator classes that a file defines, read without importing it."""
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            for statement in node.body:
                match statement:
                    case ast.Assign(targets=[ast.Name(id="name")], value=ast.Constant(value=str(name))) if name:
                        found[name] = f"layersmith.{path.parent.name}.{path.stem}:{node.name}"
    return found


def test_the_catalogue_lists_exactly_the_operators_that_the_files_define() -> None:
    defined = {name: target for path in files() for name, target in operators(path).items()}
    assert defined == {n: entry.target for n, entry in catalogue.ENTRIES.items() if entry.family in FAMILIES}


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_files_of_operators_can_be_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250


@pytest.mark.parametrize("path", files(), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_operators_share_stands_in_shared(path: Path) -> None:
    assert operators(path), "a file of a family's folder defines an operator; helpers go to its folder shared/"


def test_entries_are_sorted_by_name_within_their_family() -> None:
    for family in FAMILIES:
        names = [name for name, entry in catalogue.ENTRIES.items() if entry.family == family]
        assert names == sorted(names)


def test_methods_build_parts_that_exist() -> None:
    for name in methods.METHODS:
        method = methods.get(name)
        assert method.name == name
        assert set(method.builds) <= set(catalogue.ENTRIES), name


@pytest.mark.parametrize(
    "name", [n for n, entry in catalogue.ENTRIES.items() if entry.family in ("ffn", "norm") and n not in STOCK]
)
def test_every_feed_forward_and_norm_can_be_put_into_a_trained_model(name: str) -> None:
    """When this fails: the method that puts the part in place has to name it in `builds`."""
    assert methods.building(name)


@pytest.mark.parametrize("name", methods.METHODS)
def test_a_method_says_when_it_pays(name: str) -> None:
    module = methods.METHODS[name].partition(":")[0].removeprefix("layersmith.")
    path = SOURCE / f"{module.replace('.', '/')}.py"
    assert "When it pays: " in " ".join((ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split())


@pytest.mark.parametrize("key", BUILT.split())
def test_papers_on_feed_forwards_and_norms_are_built(key: str) -> None:
    assert papers()[key].status.partition(":")[0] in ("part", "method")
