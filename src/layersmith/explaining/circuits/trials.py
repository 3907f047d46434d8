"""Circuits that differ in the edges into one reader alone, many at once, and no more of them than differs.

The circuit as it is has been run once. Taking edges away from a reader changes what its node writes, that changes what
the readers see that still read it, and so on to the logits: only these are run again, in all circuits at once, and to
what they saw is added what has changed. In a circuit with few edges left that is little of the model.

Shapes: B pairs, T tokens, D width, W writers, R readers of a stage, K circuits.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layersmith.explaining.circuits.graph import Case, Graph, all_of, biased


class Trials:
    """What may be tried at one reader.

    keep    (W, R) bool over all readers: the circuit as it is. No edge into an earlier sublayer may be gone
    known   how many writers the reader sees; they are tried
    """

    @torch.no_grad()
    def __init__(self, graph: Graph, case: Case, keep: Tensor, reader: int):
        start = next(i for i, stage in enumerate(graph.stages) if reader in stage.readers)
        self.graph, self.case, self.stages = graph, case, graph.stages[start:]
        self.known, self.row = self.stages[0].known, reader - self.stages[0].readers.start
        self.keep = keep.to(case.off)
        self.moved = case.written - case.off  # (W, B, T, D): what is read of each writer beyond `off`, as it is
        self.streams = []  # of each stage, (R, B, T, D): what its readers see, as it is
        for stage in self.stages:
            edges = self.keep[: stage.known, stage.readers.start : stage.readers.stop]
            x = torch.einsum("wr,wbtd->rbtd", edges, self.moved[: stage.known]) + case.off[: stage.known].sum(0)
            self.streams.append(biased(x, stage))
            if stage.writers:
                own = slice(stage.writers.start, stage.writers.stop)
                self.moved[own] = all_of(stage, self.streams[-1], case.calls) - case.off[own]
        # Of the last run: stage, its rows, what they see (rows, K, B, T, D); writer -> (K, B, T, D) more than as it is.
        self._seen: list[tuple[int, Tensor, Tensor]] = []
        self._written: dict[int, Tensor] = {}
        self.whole = graph.run(case, graph.edges[None], len(graph.stages) - 1)[0]

    @torch.no_grad()
    def run(self, writers: Sequence[int]) -> Tensor:
        """Log-probabilities (K, B, V) at the answer without the edge from the first writer, the first two, ..."""
        count = len(writers)
        rows, more = torch.tensor([self.row]), -self.moved[list(writers)].cumsum(0)[None]
        logits = self.streams[-1][:, None]
        self._seen, self._written = [], {}
        for index, stage in enumerate(self.stages):
            if index > 0:
                rows, more = self._changed(stage.readers)
            if not len(rows):
                continue
            # Nodes with a reader that sees something else, and all the readers of each: queries, keys and values.
            nodes = sorted({row % max(1, len(stage.writers)) for row in rows.tolist()})
            every = torch.arange(len(stage.readers)).view(-1, max(1, len(stage.writers)))[:, nodes].flatten()
            x = self.streams[index][every][:, None].repeat(1, count, 1, 1, 1)
            x[torch.searchsorted(every, rows)] += more
            self._seen.append((index, every, x))
            if not stage.writers:
                logits = x
            else:
                y = stage.body(x.flatten(1, 2), self.case.calls, nodes).unflatten(1, x.shape[1:3])
                for node, written in zip(nodes, y, strict=True):
                    at = stage.writers.start + node
                    self._written[at] = written - self.case.off[at] - self.moved[at]
        found = self.graph.answers(logits[0], self.case.prompts.where).log_softmax(-1)
        return found.expand(count, -1, -1)

    @torch.no_grad()
    def take_away(self, count: int) -> None:
        """The first `count` edges of the last run are gone for good."""
        if count == 0:
            return
        for index, rows, x in self._seen:
            self.streams[index][rows] = x[:, count - 1]
        for writer, more in self._written.items():
            self.moved[writer] += more[count - 1]

    def _changed(self, readers: range) -> tuple[Tensor, Tensor]:
        """Which of the readers see something else, and (rows, K, B, T, D) what they see more than as it is."""
        writers = list(self._written)
        edges = self.keep[writers][:, readers.start : readers.stop]
        rows = edges.any(0).nonzero()[:, 0].cpu()
        more = torch.stack([self._written[writer] for writer in writers])
        return rows, (edges[:, rows].T @ more.flatten(1)).unflatten(1, more.shape[1:])
