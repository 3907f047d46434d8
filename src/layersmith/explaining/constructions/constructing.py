"""`construct`: build one construction, measure every claim about it, save it; and load it again.

A saved construction is a folder: `construction.json` (name, settings, claims with what was measured, machine) and
`model.safetensors`. The name and the settings build the network anew, the file then gives it its weights. One that can
be printed as a program has `program.py` beside them, which is for the user to read and run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from layersmith.disk import writable_folder, writing
from layersmith.errors import UserError
from layersmith.explaining.constructions import get
from layersmith.explaining.constructions.construction import Result, Settings
from layersmith.kinds import check_kinds
from layersmith.measuring.environment import environment
from layersmith.papers import named

SCHEMA = "layersmith.construction/1"
RECORD, WEIGHTS, SOURCE = "construction.json", "model.safetensors", "program.py"


@dataclass(frozen=True)
class Constructed:
    """A built construction and what was measured of it.

    name, settings   what builds it again
    module           the network, float64
    results          one `Result` for each claim; `result.claim.limit` tells statements about where it stops working
    """

    name: str
    settings: Settings
    module: nn.Module
    results: list[Result]

    @property
    def holds(self) -> bool:
        """Whether every claim was confirmed, those about limits too."""
        return all(result.holds for result in self.results)

    @property
    def source(self) -> str | None:
        """The network as Python source text, where it can be printed as a program."""
        return get(self.name).source(self.settings, self.module)

    def to_json(self) -> dict[str, Any]:
        """The document of `construction.json`."""
        return {
            "schema": SCHEMA,
            "name": self.name,
            "settings": self.settings,
            "papers": named(get(self.name).papers),
            "params": sum(p.numel() for p in self.module.parameters()),
            "claims": [result.to_json() for result in self.results],
            "environment": environment(),
        }

    def save(self, out: Path) -> None:
        """Write the folder; an earlier construction in it is replaced, anything else is left alone and refused."""
        check_folder(out)
        folder = writable_folder(out)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: t.contiguous() for name, t in self.module.state_dict().items()}, folder / WEIGHTS)
            (folder / SOURCE).unlink(missing_ok=True)
            if self.source is not None:
                (folder / SOURCE).write_text(self.source, encoding="utf-8")
            (folder / RECORD).write_text(json.dumps(self.to_json(), indent=1, ensure_ascii=False), encoding="utf-8")


def construct(name: str, settings: Mapping[str, object] | None = None, out: Path | str | None = None) -> Constructed:
    """Build the construction `name` with these settings over its own, measure its claims, and save it to `out`.

    Raises UserError for an unknown name or setting, a value out of bounds, and a folder that holds something else.
    """
    check_kinds(construct, locals())
    construction = get(name)
    settled = construction.settled(settings or {})
    if out is not None:
        check_folder(Path(out))
    module = construction.build(settled)
    built = Constructed(name, settled, module, construction.prove(settled, module))
    if out is not None:
        built.save(Path(out))
    return built


def load_construction(folder: Path | str) -> nn.Module:
    """The network of a saved construction. Raises UserError when the folder holds none, or one that is damaged."""
    check_kinds(load_construction, locals())
    place = Path(folder).expanduser()
    try:
        record = json.loads((place / RECORD).read_text(encoding="utf-8"))
        weights = load_file(place / WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{str(folder)!r} holds no construction that can be loaded: {error}.") from error
    if not isinstance(record, dict) or not isinstance(record.get("settings"), dict):
        raise UserError(f"{str(place / RECORD)!r} is no record of a construction.")
    construction = get(str(record.get("name")))
    module = construction.build(construction.settled(record["settings"]))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(f"The weights in {str(folder)!r} are not those of {construction.name!r}: {error}") from error
    return module


def check_folder(out: Path) -> None:
    """Refuse a folder with something else in it."""
    folder = out.expanduser()
    if folder.is_dir() and any(folder.iterdir()) and not (folder / RECORD).is_file():
        raise UserError(f"{out} exists, is not empty and holds no construction. Give a new folder as --out.")
