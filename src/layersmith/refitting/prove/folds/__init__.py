"""Exact rewrites of a whole model: other weights, sometimes other parts, the same function. This is the only list."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from layersmith.anatomy import Anatomy
    from layersmith.refitting.prove.folds.fold import Fold

_ROOM = "layersmith.refitting.prove.folds"


@dataclass(frozen=True)
class Rewrite:
    """One fold.

    target        "module:function" that makes it, imported when it is asked for
    when_it_pays  one sentence
    papers        ids of papers.toml
    missing       what of its papers is not there, in words that go on after "without"
    tried         whether a run of `refit` tries it on its result
    """

    target: str
    when_it_pays: str
    papers: tuple[str, ...] = ()
    missing: str = ""
    tried: bool = True

    def make(self, model: nn.Module, anatomy: Anatomy) -> Fold:
        """The fold of this model; raises a UserError that says why there is nothing to fold."""
        module, _, function = self.target.partition(":")
        fold: Fold = getattr(importlib.import_module(module), function)(model, anatomy)
        return fold


#: In this order: what the first leaves behind, the next may still merge.
FOLDS: dict[str, Rewrite] = {
    "pre_rms_norm": Rewrite(
        f"{_ROOM}.pre_rms_norm:fold",
        "Where norms take a visible share of the time and RMSNorm is the faster kernel; only the clock can tell.",
        ("2305.14858",),
        missing="Pre-CRMSNorm, which drops one channel and with it every well-aligned matrix width",
    ),
    "rep_bn": Rewrite(
        f"{_ROOM}.rep_bn:fold",
        "Always, for a model whose norms are `prep_bn` at the end of their schedule: no norm is left to compute.",
        ("2405.11582",),
    ),
    "fixed_norm": Rewrite(
        f"{_ROOM}.fixed_norm:fold",
        "Always, for a model whose norms are `fixed_norm` with one size for all tokens: no norm is left to compute.",
        ("2409.13710",),
    ),
    "mean_of_copies": Rewrite(
        f"{_ROOM}.mean_of_copies:fold",
        "Always, for a model with `averaged_copies`: of several copies one layer is left.",
        ("experts-weights-averaging",),
    ),
    "linear_merge": Rewrite(
        f"{_ROOM}.linear_merge:merge",
        "Always, after a search has put linear maps behind each other, since only the cheaper form is taken.",
        ("2505.21847",),
    ),
    "series_layers": Rewrite(
        f"{_ROOM}.series_layers:fold",
        "While a small model generates text on a CPU, with maps that are `one_row` or in few bits; only the clock can "
        "tell.",
    ),
    "gain": Rewrite(
        f"{_ROOM}.gain:fold_gain",
        "Not by itself, since the norm still multiplies by ones; before a model is rotated or quantized.",
        tried=False,
    ),
}
