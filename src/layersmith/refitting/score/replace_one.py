"""Replace-one scores: how far the model's predictions move when one candidate alone stands in it.

Only the blocks from the candidate's own on are run, from the stored input of that block; what lies before it is
unchanged by definition. Batches are the outer loop, so the original's predictions are computed once per batch.

A first look takes a quarter of the search windows, and of each the first half where that says enough. For
most candidates that is all that is ever needed (`search/shortlist.py`); what is said of them rests on less text, and
says so. Candidates that are exact by their local error are looked at together, all of one kind in place at once: when
even that moves nothing, none of them does alone, and each keeps the figure of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement, apply, restore
from layersmith.errors import UserError
from layersmith.measuring.divergence import Divergence, Expected
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batch, first_rows, rows_of
from layersmith.refitting.candidate import Candidate, Library, disjoint
from layersmith.refitting.methods import FLOORS
from layersmith.refitting.pruning import EXACT, saves_something, unbeaten
from layersmith.refitting.score.site_costs import SiteCosts
from layersmith.runs.workspace import Workspace

#: One in how many windows a first look takes.
LOOK = 4
#: Nats, or share, by which rounding may move a model.
ROUNDING = 1e-7
#: Candidates scored to the end before the next begin, so that a killed run keeps whole chunks.
CHUNK = 16


def worth_scoring(library: Library, budgets: list[str], costs: SiteCosts | None = None) -> list[Candidate]:
    """The floors, and every usable candidate that saves something and that no other one at the same sites beats.

    Local errors and costs are cheap and scores are not; this keeps the number of scores per site small and the total
    linear in depth.
    """
    floors = [c for c in library.candidates.values() if c.method in FLOORS.values() and c.refused is None]
    worth = unbeaten(library.usable(), budgets)
    if costs is not None:
        worth = [c for c in worth if c.cost is None or saves_something(c, costs, budgets)]
    return floors + [c for c in worth if c.method not in FLOORS.values()]


@dataclass
class Scoring:
    """Fills in `divergence`, `agreement` and `scored_on` of candidates. Finished scores are read back.

    whole_windows   look at no halves of windows: some candidate loses what lies far back
    glanced         ids of candidates that had no more than a first look
    """

    built: Library
    activations: Activations
    workspace: Workspace
    tell: Callable[[str, int, int], None] = lambda text, done, total: None
    whole_windows: bool = False
    glanced: set[str] = field(default_factory=set)

    def look(self, candidates: list[Candidate]) -> None:
        """Score on a small part of the search text."""
        search = self.activations.search
        part = Part(first_rows(search, LOOK), self._half())
        if part.share(search) == 1.0:
            self.whole(candidates)
            return
        for alike in _exact(candidates):
            self._look_together(alike, part)
        self._score(candidates, "looks", part)
        self.glanced |= {c.id for c in candidates if c.refused is None}

    def whole(self, candidates: list[Candidate]) -> None:
        """Score on all search windows."""
        self._score(candidates, "scores", Part(first_rows(self.activations.search, 1)))
        self.glanced -= {c.id for c in candidates}

    def _look_together(self, alike: list[Candidate], part: Part) -> None:
        """One look at all of these exact candidates in place at once, kept as that of each when nothing moves."""
        if all(self.workspace.load_json(f"looks/{candidate.id}") is not None for candidate in alike):
            return
        every = [pair for candidate in alike for pair in self.built.replacement(candidate)]
        (result,) = self._measured([(0, every)], part)
        if result["refused"] is None and abs(result["divergence"]) <= ROUNDING:
            for candidate in alike:
                self.workspace.save_json(f"looks/{candidate.id}", result)

    def _half(self) -> int | None:
        """Tokens in half a window; None where that would not do.

        Where tokens read later ones, what entered a block depends on these. And what a method loses that lies far back
        shows in whole windows alone.
        """
        if self.whole_windows:
            return None
        mixers = self.activations.anatomy.of_kind("mixer")
        reads_back = bool(mixers) and all(site.causal and not site.cross for site in mixers)
        texts = all(batch.keys() <= {"input_ids", "attention_mask"} for batch in self.activations.search)
        return max(1, self.activations.search[0]["input_ids"].shape[1] // 2) if reads_back and texts else None

    def _score(self, candidates: list[Candidate], kept: str, wanted: Part) -> None:
        waiting = []
        for candidate in candidates:
            saved = self.workspace.load_json(f"{kept}/{candidate.id}")
            if saved is None:
                waiting.append(candidate)
            else:
                _set(candidate, saved)
        texts = {"looks": "looking at candidates", "scores": "scoring"}
        for start in range(0, len(waiting), CHUNK):
            part = waiting[start : start + CHUNK]
            for candidate, result in zip(part, self._measured([self._placed(c) for c in part], wanted), strict=True):
                _set(candidate, result)
                self.workspace.save_json(f"{kept}/{candidate.id}", result)
            self.tell(texts[kept], start + len(part), len(waiting))

    def _placed(self, candidate: Candidate) -> tuple[int, Replacement]:
        """The first block that a candidate changes, and its modules."""
        return self.activations.block_of(candidate.site), self.built.replacement(candidate)

    @torch.no_grad()
    def _measured(self, changes: list[tuple[int, Replacement]], wanted: Part) -> list[dict[str, Any]]:
        """What each of these changes does to the model; the number beside it is the first block that it reaches."""
        replay = self.activations.replay
        sums = [Divergence() for _ in changes]
        refused: list[str | None] = [None for _ in changes]
        for index, batch in wanted.of(self.activations.search):
            original = replay.run_from(replay.n_blocks, self._entering(replay.n_blocks, index, batch), batch)
            expected = Expected(original, batch.get("attention_mask"))  # is finite, or nothing can be scored
            for place, ((start, replacement), total) in enumerate(zip(changes, sums, strict=True)):
                if refused[place]:
                    continue
                before = apply(replay.model, replacement)
                try:
                    out = replay.run_from(start, self._entering(start, index, batch), batch)
                finally:
                    restore(replay.model, before)
                try:
                    total.add_to(expected, out)
                except UserError:  # what it raises for outputs that are not finite: half precision overflows
                    refused[place] = "with it, the model's outputs are not finite"
        share = wanted.share(self.activations.search)
        return [_figures(why, total, share) for why, total in zip(refused, sums, strict=True)]

    def _entering(self, block: int, index: int, batch: Batch) -> Tensor | None:
        """What enters a block on this part of a batch."""
        hidden = self.activations.search_hidden(block, index)
        if hidden is None:
            return None
        whole = self.activations.search[index].get("input_ids")
        cut = whole is not None and batch["input_ids"].shape[1] < whole.shape[1]
        part = hidden[: rows_of(batch), : batch["input_ids"].shape[1]] if cut else hidden[: rows_of(batch)]
        return part.contiguous()


def _exact(candidates: list[Candidate]) -> list[list[Candidate]]:
    """Those whose local error is rounding, by kind, as far as they can stand in one model; several of a kind only."""
    kinds: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if candidate.local_error <= EXACT:
            kinds.setdefault(candidate.id.removeprefix(candidate.site), []).append(candidate)
    return [alike for same in kinds.values() if len(alike := disjoint(same)) > 1]


@dataclass(frozen=True)
class Part:
    """Of each batch the first rows, and of each row the first `tokens`, or all."""

    rows: list[int]
    tokens: int | None = None

    def of(self, batches: list[Batch]) -> Iterator[tuple[int, Batch]]:
        """The parts, each with the number of its batch; batches of which nothing is wanted are left out."""
        for index, (batch, rows) in enumerate(zip(batches, self.rows, strict=True)):
            if rows and self.tokens is None:
                yield index, {name: tensor[:rows] for name, tensor in batch.items()}
            elif rows:
                # Contiguous, as a model's own inputs are: some take them apart by `view`.
                yield index, {name: tensor[:rows, : self.tokens].contiguous() for name, tensor in batch.items()}

    def share(self, batches: list[Batch]) -> float:
        """How much of the batches it is."""
        rows = sum(self.rows) / sum(rows_of(batch) for batch in batches)
        return rows if self.tokens is None else rows * self.tokens / batches[0]["input_ids"].shape[1]


def _figures(why: str | None, total: Divergence, share: float) -> dict[str, Any]:
    if why:
        return {"divergence": None, "agreement": None, "scored_on": None, "refused": why}
    return {"divergence": total.value, "agreement": total.agreement, "scored_on": share, "refused": None}


def _set(candidate: Candidate, result: dict[str, Any]) -> None:
    for name, value in result.items():
        setattr(candidate, name, value)
