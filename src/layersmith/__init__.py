"""layersmith: take any transformer apart at its sublayers, swap any of them, and prove what the swap costs and gains.

    load(name)                  a folder, a Hub id or "pocket" -> (model, tokenizer)
    sites(model)                where sublayers can be replaced -> Anatomy
    swap(model, {site: part})   a context in which other modules stand at those sites
    measure(model, against)     quality and cost, side by side, in one run -> dict
    refit(model, budget=, out=) the cheapest good mix of alternatives under a budget -> dict, and files in `out`
    catalogue                   the parts: catalogue.build({"name": "glu", "d_model": 64, "d_hidden": 128})

Each name is imported when it is first used, so `import layersmith` costs nothing. Verbs are functions; the rooms behind
them have names of their own (`layersmith.measuring`, `layersmith.refitting`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layersmith import catalogue as catalogue
    from layersmith.anatomy import find_sites as sites
    from layersmith.anatomy.swap import swap as swap
    from layersmith.checkpoint import load as load
    from layersmith.measuring.compare import measure as measure
    from layersmith.refitting.pipeline import refit as refit

    __version__: str

__all__ = ["__version__", "catalogue", "load", "measure", "refit", "sites", "swap"]

_HOME = {
    "catalogue": "layersmith.catalogue",
    "load": "layersmith.checkpoint:load",
    "measure": "layersmith.measuring.compare:measure",
    "refit": "layersmith.refitting.pipeline:refit",
    "sites": "layersmith.anatomy:find_sites",
    "swap": "layersmith.anatomy:swap",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("layersmith")
    if name not in _HOME:
        raise AttributeError(f"module 'layersmith' has no attribute {name!r}")
    module, _, attribute = _HOME[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, attribute) if attribute else found


def __dir__() -> list[str]:
    return sorted(__all__)
