"""ACDC: edges are taken away greedily, from the logits back, while the predictions stay as they were.

For each reader, last ones first, and each of its edges, from the latest writer on: the edge goes for good where that
raises KL(model || circuit) at the answer by less than the threshold.

Three things make it fast and change nothing in the result. Nothing is run for a node that nobody reads any more: its
edges change nothing. Of the others only what depends on the reader is run (`trials.py`). And edges are tried many at
once, each trial with those before it gone; where all of them go, as most do, it was one run. The first that has to stay
ends the batch, and the rest is tried again without it: so batches grow while edges go and shrink where one stays.

Paper: "Towards Automated Circuit Discovery for Mechanistic Interpretability"; order and comparison confirmed in the
authors' code (ArthurConmy/Automatic-Circuit-Discovery). There edges are tried one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.explaining.circuits.graph import Case, Graph
from layersmith.explaining.circuits.trials import Trials

#: Edges tried at once at first.
FIRST = 8


def prune_reader(
    graph: Graph, cases: Sequence[Case], keep: Tensor, now: float, reader: int, threshold: float, at_once: int
) -> tuple[Tensor, float]:
    """Try every edge into one reader; (W, R) bool and the divergence (nats) before -> the same afterwards.

    at_once  edges tried in one run, at most
    """
    stage, keep = next(stage for stage in graph.stages if reader in stage.readers), keep.clone()
    if threshold > 0 and stage.writers:
        writer = stage.writers[(reader - stage.readers.start) % len(stage.writers)]
        if not keep[writer].any():
            keep[:, reader] = False
            return keep, now
    trials = [Trials(graph, case, keep, reader) for case in cases]
    waiting, many = list(reversed(range(stage.known))), min(FIRST, at_once)
    while waiting:
        trial = waiting[:many]
        found = divergences(trials, trial)
        gone = 0
        while gone < len(trial) and found[gone] - now < threshold:
            now = found[gone]
            gone += 1
        keep[trial[:gone], reader] = False
        for each in trials:
            each.take_away(gone)
        whole = gone == len(trial)
        waiting = waiting[gone:] if whole else waiting[gone + 1 :]
        many = min(at_once, 2 * many) if whole else max(1, many // 2)
    return keep, now


def divergences(trials: Sequence[Trials], writers: Sequence[int]) -> list[float]:
    """KL(model || circuit) at the answer in nats, mean over the pairs, without the first, the first two, ... edges."""
    total = torch.zeros(len(writers), dtype=torch.float64)
    for each in trials:
        found = each.run(writers)
        moved = F.kl_div(found, each.whole.expand_as(found), reduction="none", log_target=True).sum(-1)
        total += moved.double().sum(-1).cpu()
    return (total / sum(len(each.case.prompts.where) for each in trials)).tolist()
