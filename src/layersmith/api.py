"""What people import: `import layersmith`, then `layersmith.NAME`. Nothing else is promised to stay as it is.

    load(name)                        a folder, a Hub id, a .gguf file or "pocket" -> (model, tokenizer)
    sites(model)                      where sublayers can be replaced -> Anatomy, which can be iterated and indexed
    build("glu", d_model=64, ...)     a part of the catalogue, freshly initialised
    swap(model, {site: part})         a context in which other modules stand at those sites
    apply(model, {site: part})        the same for good -> the edits, to be saved with the model
    save(model, edits, path)          a folder that loads again
    measure(model, against)           quality and cost, side by side, in one run -> Measurement
    refit(model, budget=, out=)       the best mix of alternatives under a budget -> RefitResult, and files in `out`
    export(model, to=, out=)          a file for another runtime, proved and timed there -> Exported, and the file
    construct(name, settings, out=)   weights published on paper, built and put to the proof -> Constructed
    explain(model, tool=, sites=)     what sublayers compute, judged in place -> ExplainResult, and files in `out`
    race(mixer=[...], task=, out=)    mechanisms trained from scratch under one budget, with a verdict -> RaceResult
    catalogue                         the table of parts

A site is named ("layers.3.ffn"), given as a `Site`, or chosen by a pattern ("layers.*.ffn"): a pattern's first site
gets the part itself and every other one a copy of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from layersmith import catalogue, checkpoint
from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy import find_sites as sites
from layersmith.anatomy.edit import Edit
from layersmith.anatomy.edit import apply as put
from layersmith.anatomy.hold import holding
from layersmith.anatomy.running import check_module
from layersmith.anatomy.swap import replacement_of, swap
from layersmith.checkpoint import load
from layersmith.checkpoint.saving import Tokenizer
from layersmith.errors import UserError
from layersmith.explaining.constructions.constructing import Constructed, construct, load_construction
from layersmith.explaining.pipeline import explain
from layersmith.explaining.result import ExplainResult
from layersmith.exporting.pipeline import Exported, export
from layersmith.kinds import check_kinds
from layersmith.measuring.compare import Measurement, measure
from layersmith.racing.pipeline import race
from layersmith.racing.result import RaceResult
from layersmith.refitting.pipeline import refit
from layersmith.refitting.prove.result import RefitResult

__all__ = [
    "Anatomy",
    "Constructed",
    "Edit",
    "ExplainResult",
    "Exported",
    "Measurement",
    "RaceResult",
    "RefitResult",
    "Site",
    "UserError",
    "apply",
    "build",
    "catalogue",
    "construct",
    "explain",
    "export",
    "load",
    "load_construction",
    "measure",
    "race",
    "refit",
    "save",
    "sites",
    "swap",
]


def build(name: str, **config: Any) -> nn.Module:
    """A freshly initialised part: `build("glu", d_model=64, d_hidden=128)`. `catalogue` and `show` list arguments.

    Raises UserError for an unknown name (with the nearest ones) and for arguments that the part does not take.
    """
    check_kinds(build, {"name": name})
    return catalogue.build({"name": name, **config})


def apply(model: nn.Module, modules: Mapping[str | Site, nn.Module], anatomy: Anatomy | None = None) -> list[Edit]:
    """Put modules at sites of the model, in place and for good; returns the edits that `save` needs.

    modules  site, its name or a pattern -> an operator (`build` makes them); copies of original modules are for `swap`
    Raises UserError as `swap` does, before anything is changed.
    """
    check_module(model)
    check_kinds(apply, locals(), but=("modules",))
    anatomy = anatomy or sites(model)
    replacement = replacement_of(model, modules, anatomy)
    unnamed = [edit.path for edit, _ in replacement if not edit.spec]
    if unnamed:
        raise UserError(
            f"What is to stand at {unnamed[0]!r} is no operator, so nothing could rebuild it when the model is loaded. "
            f"Use swap for a while, or write it as an operator (a subclass of a family in layersmith.contract)."
        )
    with holding(model, anatomy) as hold:  # refuses a model that is swapped by another thread
        put(model, replacement)
        hold.before = {}
    return [edit for edit, _ in replacement]


def save(
    model: PreTrainedModel,
    edits: Sequence[Edit],
    path: str | os.PathLike[str],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Save a model with its edits to the folder `path`, from which `load(path)` gives it back.

    Raises UserError when the edits do not describe the model, or its class is not one of transformers.
    """
    check_module(model)
    check_kinds(save, {"edits": edits, "path": path, "tokenizer": tokenizer})
    checkpoint.save(model, edits, path, tokenizer)
