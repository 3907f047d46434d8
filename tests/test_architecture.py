"""The tour in docs/architecture.md is true: it names every room, in the order of the floors, and nothing else."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "layersmith"
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TOUR = PAGE.partition("## Contracts between rooms")[0]
VERBS = ("refitting", "racing", "explaining")


def rooms(folder: Path) -> set[str]:
    """Names of the packages and modules in a folder."""
    return {p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()} - {"__init__"}


def floors() -> list[set[str]]:
    """The rooms of each row of the table of floors, from the lowest."""
    rows = re.findall(r"^\| \d+ \| (.*?) \|", TOUR, flags=re.MULTILINE)
    return [set(re.findall(r"`(\w+)`", row)) for row in rows]


def test_the_table_of_floors_names_every_room_once() -> None:
    named = [room for row in floors() for room in row]
    assert len(named) == len(set(named))
    assert rooms(SOURCE) - set(named) == {"__main__", "api", "pocket"}, "these are told of under the table"
    assert set(named) <= rooms(SOURCE)


def test_the_floors_are_those_that_are_enforced() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["id"] == "floors")
    layers = [re.split(r" [|:] ", layer) for layer in contract["layers"]][::-1]
    enforced = {room: height for height, layer in enumerate(layers) for room in layer}
    for below, above in pairwise(floors()):
        assert max(enforced[room] for room in below) < min(enforced[room] for room in above), (below, above)


@pytest.mark.parametrize("verb", VERBS)
def test_every_room_of_a_verb_is_named(verb: str) -> None:
    inside = TOUR.partition(f"Inside `{verb}`")[2].partition("\nInside `")[0]
    folders = [p.name for p in (SOURCE / verb).iterdir() if (p / "__init__.py").exists()]
    assert folders
    for folder in folders:
        assert f"`{folder}/`" in inside, folder


def test_what_the_tour_names_is_there() -> None:
    parts = {p.relative_to(SOURCE).as_posix() for p in SOURCE.rglob("*.py")}
    parts |= {f"{p.relative_to(SOURCE).as_posix()}/" for p in SOURCE.rglob("*") if p.is_dir()}
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", TOUR):
        here = (ROOT / name).exists() or any(part == name or part.endswith(f"/{name}") for part in parts)
        assert here or "NAME" in name, name


@pytest.mark.parametrize("verb", VERBS)
def test_the_verbs_are_built_alike(verb: str) -> None:
    assert rooms(SOURCE / verb) >= {"pipeline", "options", "context"}
    assert "class RunContext:" in (SOURCE / verb / "context.py").read_text(encoding="utf-8")
    source = (SOURCE / verb / "pipeline.py").read_text(encoding="utf-8")
    for step in ("def _stages(ctx: RunContext", "Workspace(", "writing("):
        assert step in source, step
