"""Chains: what a method made of a sublayer, in a number format as well. Built when costs are known, where both pay.

There are as many chains as there are pairs of candidates, and most of them cannot win. So a structure is followed by a
format only where neither is beaten by another of its kind at its sites (`pruning`), and where the format by itself was
measured to be cheaper there than the original: bfloat16 is slow on many a processor, and int8 in many a shape.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from layersmith.anatomy import Site
from layersmith.refitting import methods
from layersmith.refitting.build.block_library import NO_FIT, SiteReport, finished, keep, load, why
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.candidate import Candidate, Library
from layersmith.refitting.method import candidate_id
from layersmith.refitting.methods.chain import Chain
from layersmith.refitting.pruning import saves_something, unbeaten
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.runs.workspace import Workspace


@dataclass(frozen=True)
class Chains:
    """What chains are made of: the library with its costs, and where the activations are that tell their errors."""

    activations: Activations
    workspace: Workspace
    built: Library
    reports: dict[str, SiteReport]
    costs: SiteCosts
    budgets: list[str]
    seed: int = 0

    def build(self, tell: Callable[[str, int, int], None] = lambda text, done, total: None) -> list[Candidate]:
        """Add the chains that may pay to the library, and to the reports why others could not be built.

        Returns the new candidates, whose costs are not measured yet.
        """
        found: list[Candidate] = []
        anatomy = self.activations.anatomy
        blocks = [*anatomy.of_kind("block"), *anatomy.of_kind("head")]
        for done, block in enumerate(blocks):
            for site in [s for s in anatomy.in_block(block.name) if s != block]:
                found += self._at(site, worth_following(self.built, site.name, self.costs, self.budgets))
            self.activations.forget()
            tell("building chains", done + 1, len(blocks))
        self.built.candidates.update({candidate.id: candidate for candidate in found})
        return found

    def _at(self, site: Site, pairs: list[tuple[Candidate, Chain]]) -> list[Candidate]:
        known = [load(self.workspace, candidate_id(site.name, chain.name, first.settings)) for first, chain in pairs]
        if all(known):
            return [candidate for candidate in known if candidate]
        view, found = self.activations.view(site, self.seed), []
        for (first, chain), candidate in zip(pairs, known, strict=True):
            if candidate is None:
                start = time.perf_counter()
                try:
                    replacement = chain.follow(view, self.built.replacement(first))
                    candidate, tensors = finished(view, chain, first.settings, replacement)
                except NO_FIT as error:
                    self.reports[site.name].refusals[chain.name] = why(error)
                    continue
                candidate.distilled_steps, candidate.seconds = first.distilled_steps, time.perf_counter() - start
                keep(self.workspace, candidate, tensors)
            found.append(candidate)
        return found


def worth_following(library: Library, site: str, costs: SiteCosts, budgets: list[str]) -> list[tuple[Candidate, Chain]]:
    """Which candidates at a site to follow by which format: unbeaten structures, and formats that save something."""
    wanted = [methods.get(name) for name in library.methods if methods.THEN in name]
    chains = [method for method in wanted if isinstance(method, Chain)]
    here = [c for c in library.at(site) if c.refused is None and c.cost is not None and methods.THEN not in c.method]
    saving = [c for c in here if methods.get(c.method).everywhere and saves_something(c, costs, budgets)]
    formats = {c.method for c in unbeaten(saving, budgets)}
    structures = unbeaten([c for c in here if methods.get(c.method).chains], budgets)
    fast = [chain for chain in chains if chain.then.name in formats]
    return [(first, chain) for chain in fast for first in structures if first.method == chain.first.name]
