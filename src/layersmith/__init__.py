"""layersmith: take any transformer apart at its sublayers, swap any of them, and prove what the swap costs and gains.

Everything for users is in `layersmith.api`, and here under the same names: load, sites, build, swap, apply, save,
measure, refit, race, explain, export, construct, catalogue. Each is imported when it is first used, so
`import layersmith` costs nothing. Verbs are functions; the rooms behind them have names of their own
(`layersmith.measuring`, `layersmith.refitting`, ...).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from layersmith import catalogue as catalogue
    from layersmith.api import apply as apply
    from layersmith.api import build as build
    from layersmith.api import construct as construct
    from layersmith.api import explain as explain
    from layersmith.api import export as export
    from layersmith.api import load as load
    from layersmith.api import measure as measure
    from layersmith.api import race as race
    from layersmith.api import refit as refit
    from layersmith.api import save as save
    from layersmith.api import sites as sites
    from layersmith.api import swap as swap

#: The one place that states it: pyproject.toml reads it here. What pip has on record is that of the last installation.
__version__ = "0.2.0"

__all__ = [
    "__version__",
    "apply",
    "build",
    "catalogue",
    "construct",
    "explain",
    "export",
    "load",
    "measure",
    "race",
    "refit",
    "save",
    "sites",
    "swap",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'layersmith' has no attribute {name!r}")
    if name == "catalogue":
        return importlib.import_module("layersmith.catalogue")
    return getattr(importlib.import_module("layersmith.api"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
