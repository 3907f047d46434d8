"""A choice is one candidate per site (or keep): from options for the solver to a student model that can run."""

from __future__ import annotations

import copy
from typing import Any

from layersmith.anatomy.edit import Replacement, apply
from layersmith.cost import FIELDS, Cost
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.score.site_costs import SiteCosts, measured
from layersmith.refitting.search.knapsack import Option, Solution

KEEP = "keep"


def options(library: Library, costs: SiteCosts) -> list[Option]:
    """Everything the solver may choose from: each site kept, and every offered candidate."""
    kept = [Option(f"{site}/{KEEP}", (site,), 0.0, _figures(cost)) for site, cost in costs.of_site.items()]
    offered = [
        Option(c.id, tuple(c.sites), max(0.0, c.divergence or 0.0), _figures(measured(c)))
        for c in library.offered()
        if c.sites
    ]
    return kept + offered


def _figures(cost: Cost) -> dict[str, float]:
    return {name: cost.of(name) for name in FIELDS}


def candidates_of(solution: Solution, library: Library) -> list[Candidate]:
    """The candidates a solution really changes something with."""
    return [library.candidates[name] for name in solution.chosen if name in library.candidates]


def replacement_of(candidates: list[Candidate], library: Library) -> Replacement:
    """All their edits as one replacement. Sites are disjoint, so paths are too."""
    return [pair for c in candidates for pair in library.replacement(c)]


def student(model: Any, replacement: Replacement) -> Any:
    """A copy of the model with the replacement applied; the original stays as it is."""
    copied = copy.deepcopy(model)
    apply(copied, replacement)
    return copied
