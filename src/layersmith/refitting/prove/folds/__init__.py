"""Exact rewrites of a whole model: other weights, sometimes other parts, the same function. This is the only list."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from layersmith.anatomy import Anatomy
from layersmith.refitting.prove.folds import gain, linear_merge, pre_rms_norm, rep_bn
from layersmith.refitting.prove.folds.fold import Fold


@dataclass(frozen=True)
class Rewrite:
    """One fold.

    make          (model, anatomy) -> `Fold`; raises a UserError that says why there is nothing to fold
    when_it_pays  one sentence
    papers        ids of papers.toml
    missing       what of its papers is not there, in words that go on after "without"
    tried         whether a run of `refit` tries it on its result
    """

    make: Callable[[nn.Module, Anatomy], Fold]
    when_it_pays: str
    papers: tuple[str, ...] = ()
    missing: str = ""
    tried: bool = True


#: In this order: what the first leaves behind, the next may still merge.
FOLDS: dict[str, Rewrite] = {
    "pre_rms_norm": Rewrite(
        pre_rms_norm.fold,
        "Where norms take a visible share of the time and RMSNorm is the faster kernel; only the clock can tell.",
        ("2305.14858",),
        missing="Pre-CRMSNorm, which drops one channel and with it every well-aligned matrix width",
    ),
    "rep_bn": Rewrite(
        rep_bn.fold,
        "Always, for a model whose norms are `prep_bn` at the end of their schedule: no norm is left to compute.",
        ("2405.11582",),
    ),
    "linear_merge": Rewrite(
        linear_merge.merge,
        "Always, after a search has put linear maps behind each other, since only the cheaper form is taken.",
        ("2505.21847",),
    ),
    "gain": Rewrite(
        gain.fold_gain,
        "Not by itself, since the norm still multiplies by ones; before a model is rotated or quantized.",
        tried=False,
    ),
}
