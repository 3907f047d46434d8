"""Circuits that differ in the edges into one reader alone, many at once and no further back than that reader.

What writers before the reader's stage write is what they write in the whole model, for none of their own edges is
tried. So what they add to the later readers is the same in all of these circuits, and is added up once; a circuit costs
what the sublayers from the reader on cost, and the sums over what those write.

Shapes: B pairs, T tokens, D width, W writers, R readers of a stage, K circuits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layersmith.explaining.circuits.graph import Case, Graph, Stage, biased


class Trials:
    """What may be tried at one reader.

    keep    (W, R) bool over all readers: the circuit as it is
    known   how many writers the reader sees; they are tried
    """

    @torch.no_grad()
    def __init__(self, graph: Graph, case: Case, keep: Tensor, reader: int):
        start = next(i for i, stage in enumerate(graph.stages) if reader in stage.readers)
        self.graph, self.case, self.stages = graph, case, graph.stages[start:]
        first = self.stages[0]
        self.known, self.row = first.known, reader - first.readers.start
        self.before = first.writers.start if first.writers else len(graph.writers)
        self.keep, self.moved = keep.to(case.off), case.written - case.off
        self.fixed = [self._fixed(stage) for stage in self.stages]
        self.whole = graph.run(case, graph.edges[None], len(graph.stages) - 1)[0]

    @torch.no_grad()
    def run(self, writers: Sequence[int]) -> Tensor:
        """Log-probabilities (K, B, V) at the answer without the edge from the first writer, the first two, ..."""
        gone = self.moved[list(writers)].cumsum(0)
        x = self.fixed[0][:, None].repeat(1, len(writers), 1, 1, 1)
        x[self.row] -= gone
        later = self.moved.new_empty(len(self.moved) - self.before, *gone.shape)  # what those from the reader on write
        for index, stage in enumerate(self.stages[:-1]):
            y = stage.body(x.flatten(1, 2), self.case.calls).unflatten(1, gone.shape[:2])
            own = slice(stage.writers.start, stage.writers.stop)
            later[own.start - self.before : own.stop - self.before] = y - self.case.off[own, None]
            x = self._seen(index + 1, later)
        return self.graph.answers(x[0], self.case.prompts.where).log_softmax(-1)

    @torch.no_grad()
    def take_away(self, writers: Sequence[int]) -> None:
        """The edges from these writers are gone for good."""
        self.fixed[0][self.row] -= self.moved[list(writers)].sum(0)

    def _seen(self, index: int, later: Tensor) -> Tensor:
        """What every reader of a later stage sees in all circuits, (R, K, B, T, D)."""
        stage = self.stages[index]
        written = later[: max(0, stage.known - self.before)]
        edges = self.keep[self.before : stage.known, stage.readers.start : stage.readers.stop]
        return self.fixed[index][:, None] + (edges.T @ written.flatten(1)).unflatten(1, later.shape[1:])

    def _fixed(self, stage: Stage) -> Tensor:
        """What every reader of the stage sees of the writers before the one that is tried, (R, B, T, D)."""
        seen = min(self.before, stage.known)
        edges = self.keep[:seen, stage.readers.start : stage.readers.stop]
        kept = torch.einsum("wr,wbtd->rbtd", edges, self.moved[:seen])
        return biased(kept + self.case.off[: stage.known].sum(0), stage)
