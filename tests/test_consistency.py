"""The catalogue, the operator files, the methods and the source papers tell of the same things."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from layersmith import catalogue, standing
from layersmith.papers import papers
from layersmith.refitting import methods

SOURCE = Path(__file__).resolve().parents[1] / "src" / "layersmith"
FAMILIES = ("ffn", "norm", "mixer", "linear", "block")
#: What models are made of before anything is replaced, and taking out: no method is needed to put these in place.
STOCK = {"identity", "mlp", "glu", "layer_norm", "rms_norm"}
#: Put in place by a tool of `explain`, which fits them.
EXPLAINED = {"equations"}
#: Put in place by healing, which trains what they add.
HEALED = {"domain_adapters", "lora_experts"}
#: The papers on feed-forwards and norms whose mechanisms have to stand in the catalogue.
BUILT = """
2411.03884 2601.21766 2210.06313 2411.12992 2409.10594 2505.13813 2602.06471 1903.05895 2509.14026
scalable-neural-network-kernels
2411.12364 2305.03452 2101.03961 2407.04153 2410.23168 2310.14921 2310.10837 2406.16450 2311.10770 2505.21847
2511.14111 2506.23225 2506.06644 2511.09323 2408.08338 2503.06112 2602.03879 2402.05830 2505.06633 2405.16836
2301.11526 2509.07569 2510.22450 2509.25933 2405.11582 2403.09635 2503.10622 2305.14858 2002.04745 2210.06423
2304.02034 2310.02244 2306.17759 1902.06853
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


def test_files_of_operators_can_be_read_in_one_sitting() -> None:
    assert [str(path) for path in files() if len(path.read_text(encoding="utf-8").splitlines()) > 250] == []


def test_what_operators_share_stands_in_shared() -> None:
    """A file of a family's folder defines an operator; helpers go to its folder shared/."""
    assert [str(path) for path in files() if not operators(path)] == []


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
    "name",
    [
        n
        for n, entry in catalogue.ENTRIES.items()
        if entry.family in ("ffn", "norm") and n not in STOCK | EXPLAINED | HEALED
    ],
)
def test_every_feed_forward_and_norm_can_be_put_into_a_trained_model(name: str) -> None:
    """When this fails: the method that puts the part in place has to name it in `builds`."""
    assert methods.building(name)


@pytest.mark.parametrize("key", BUILT.split())
def test_papers_on_feed_forwards_and_norms_are_built(key: str) -> None:
    stands = standing.standing(papers()[key])
    assert stands.parts or stands.methods
