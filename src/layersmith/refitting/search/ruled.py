"""Baselines that follow a rule: methods that remove by measuring whole mixes one after the other, as their papers do.

Their harm is the divergence on the first quarter of the search windows, the same look that candidates get; each is
kept, so that a resumed run decides on the same figures. A rule is asked for stronger and stronger mixes until one is
predicted to meet the budget with something to spare, since predicted latencies are off by a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from layersmith.errors import UserError
from layersmith.measuring.divergence import Expected
from layersmith.refitting import methods
from layersmith.refitting.calibrate.batches import Batch, first_rows
from layersmith.refitting.candidate import Candidate
from layersmith.refitting.context import RunContext
from layersmith.refitting.score.replace_one import LOOK, Part
from layersmith.refitting.search.found import Found, meets
from layersmith.refitting.search.uniform import Ladder, Rung
from layersmith.refitting.search.variants import joint_divergence, outputs
from layersmith.runs.identity import digest_of

#: By how much the last rung is predicted to be below the budget.
SPARE = 0.9


def ruled(ctx: RunContext, found: Found) -> list[Ladder]:
    """A ladder of each method of the run that has a rule, and of each kind of site where the rule is for one kind."""
    names = [name for name in found.built.methods if name in methods.METHODS and methods.get(name).ruled]
    if not names:
        return []
    harms = _Harms(ctx, found)
    made = []
    for name in names:
        groups: dict[str, list[Candidate]] = {}
        for candidate in found.built.usable():
            if candidate.method == name:
                by_kind = methods.get(name).ruled == "kind"
                kind = ctx.anatomy.site(candidate.site).kind if by_kind else "by rule"
                groups.setdefault(kind, []).append(candidate)
        for kind, candidates in groups.items():
            if rungs := _rungs(name, candidates, harms):
                made.append(Ladder(f"{name} {kind}", name, rungs))
    return made


def _rungs(name: str, candidates: list[Candidate], harms: _Harms) -> list[Rung]:
    """The mixes of the rule up to the first one that is predicted to meet the budget with something to spare."""
    rungs: list[Rung] = []
    for settings, mix in methods.get(name).rungs(candidates, harms):
        harms.ctx.bar.note(f"{name}: {len(mix)} sites changed, {harms.measured} mixes measured")
        if mix and (not rungs or rungs[-1].candidates != mix):
            rungs.append(Rung(settings, mix))
        if mix and harms.enough(mix):
            break
    return rungs


@dataclass
class _Harms:
    """How far mixes are from the original, and whether they are strong enough."""

    ctx: RunContext
    found: Found
    measured: int = 0
    _batches: list[Batch] = field(default_factory=list)
    _expected: list[Expected] = field(default_factory=list)

    def __call__(self, mix: Sequence[Candidate]) -> float:
        ids = [candidate.id for candidate in mix]
        kept = f"ruled/{digest_of(ids)}"
        saved = self.ctx.workspace.load_json(kept)
        if saved is None:
            saved = {"divergence": self._measure(ids)}
            self.ctx.workspace.save_json(kept, saved)
        self.measured += 1
        return math.inf if saved["divergence"] is None else float(saved["divergence"])

    def _measure(self, ids: list[str]) -> float | None:
        """None where outputs are not finite."""
        if not self._batches:
            search = self.ctx.batches.search
            self._batches = [batch for _, batch in Part(first_rows(search, LOOK)).of(search)]
            self._expected = outputs(self.ctx.model, self._batches)
        replacement = self.found.replacement(ids)
        try:
            return joint_divergence(self.ctx.model, replacement, self._batches, self._expected).value
        except UserError:  # what it raises for outputs that are not finite
            return None

    def enough(self, mix: Sequence[Candidate]) -> bool:
        budget = {name: SPARE * share for name, share in self.ctx.settings.budget.items()}
        return meets(self.found.shares(self.found.costs.predicted(list(mix)), None, budget), budget)
