"""ACDC: edges are taken away greedily, from the logits back, while the predictions stay as they were.

For each reader, last ones first, and each of its edges, from the latest writer on: the edge goes for good where that
raises KL(model || circuit) at the answer by less than the threshold.

Two things make it fast and change nothing in the result. What writers before a reader write is what they write in the
whole model, since none of their own edges has been tried: only the stages from the reader's own on are run. And edges
are tried many at once, each trial with those before it gone; where all of them go, as most do, it was one run. The
first that has to stay ends the batch, and the rest is tried again without it.

Paper: "Towards Automated Circuit Discovery for Mechanistic Interpretability". There edges are tried one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.explaining.circuits.graph import Case, Graph


def prune_reader(
    graph: Graph, cases: Sequence[Case], keep: Tensor, now: float, reader: int, threshold: float, at_once: int
) -> tuple[Tensor, float]:
    """Try every edge into one reader; (W, R) bool and the divergence (nats) before -> the same afterwards."""
    stage = next(i for i, s in enumerate(graph.stages) if reader in s.readers)
    waiting = list(reversed(range(graph.stages[stage].known)))
    keep = keep.clone()
    while waiting:
        trial = waiting[:at_once]
        circuits = keep.repeat(len(trial), 1, 1)
        for row, writer in enumerate(trial):
            circuits[row:, writer, reader] = False
        found = divergences(graph, cases, circuits, stage)
        gone = 0
        while gone < len(trial) and found[gone] - now < threshold:
            now = found[gone]
            keep[trial[gone], reader] = False
            gone += 1
        waiting = waiting[gone + 1 :] if gone < len(trial) else waiting[gone:]
    return keep, now


def divergences(graph: Graph, cases: Sequence[Case], circuits: Tensor, start: int = 0) -> list[float]:
    """KL(model || circuit) at the answer in nats, mean over the pairs, for each of (K, W, R)."""
    total = torch.zeros(len(circuits), dtype=torch.float64)
    whole = graph.edges[None]
    for case in cases:
        model = graph.run(case, whole, len(graph.stages) - 1)
        found = graph.run(case, circuits, start)
        moved = F.kl_div(found, model.expand_as(found), reduction="none", log_target=True).sum(-1)
        total += moved.double().sum(-1).cpu()
    return (total / sum(len(case.prompts.where) for case in cases)).tolist()
