"""How pictures are drawn with a trained model, one sampler a file, and the one explicit table: name -> class.

A sampler is a setting of the task `generation`, and what entrants of one race may differ in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from layersmith.errors import suggest

if TYPE_CHECKING:
    from layersmith.racing.samplers.sampler import Sampler

#: A name, or {"name": ..., settings}.
Given = str | dict[str, Any]

SAMPLERS: dict[str, str] = {
    "affiner": "layersmith.racing.samplers.affiner:Affiner",
    "base_prior": "layersmith.racing.samplers.base_prior:BasePrior",
    "extrapolation_refresh": "layersmith.racing.samplers.extrapolation_refresh:ExtrapolationRefresh",
    "plain": "layersmith.racing.samplers.sampler:Sampler",
    "stage_predictor": "layersmith.racing.samplers.stage_predictor:StagePredictor",
    "tangential_damping": "layersmith.racing.samplers.tangential_damping:TangentialDamping",
}


def build_sampler(given: Given) -> Sampler:
    """A fresh sampler. ValueError for a name or a setting that there is not, or that cannot be."""
    settings = {"name": given} if isinstance(given, str) else dict(given) if isinstance(given, dict) else {}
    name = settings.pop("name", None)
    if name not in SAMPLERS:
        raise ValueError(f"There is no sampler {name!r}. {suggest(str(name), list(SAMPLERS))}")
    module, _, found = SAMPLERS[name].partition(":")
    sampler: type[Sampler] = getattr(importlib.import_module(module), found)
    try:
        return sampler(**settings)
    except TypeError as error:
        raise ValueError(f"The sampler {name!r} does not take these settings: {error}.") from error
