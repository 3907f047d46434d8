"""How good a circuit is, measured by running it, and how good random ones of its size are.

    faithfulness      (m(circuit) - m(none)) / (m(all) - m(none)): 1 answers like the model, 0 like one without edges
    without it        the same for all edges but the circuit's: near 0 where the circuit is all there is of the task
                      (completeness)

m is the mean log-odds of the answer; without any edge the model sees what is put for them (the corrupt prompt).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from layersmith.explaining.circuits.graph import Case, Graph


def odds(graph: Graph, cases: Sequence[Case], circuits: Tensor) -> list[float]:
    """Mean log-odds (nats) of the answer in each of the circuits (K, W, R)."""
    total = torch.zeros(len(circuits), dtype=torch.float64)
    for case in cases:
        parts = circuits.split(graph.at_once(case))
        found = torch.cat([case.prompts.log_odds(graph.run(case, part)) for part in parts])
        total += found.double().sum(-1).cpu()
    return (total / sum(len(case.prompts.where) for case in cases)).tolist()


def sizes(edges: int) -> list[int]:
    """1, 2, 5, 10, ... and the number of edges itself."""
    steps = [m * 10**e for e in range(len(str(edges))) for m in (1, 2, 5)]
    return [*(size for size in steps if size < edges), edges]


def best(scores: Tensor, edges: Tensor, size: int) -> Tensor:
    """(W, R) bool: the edges with the largest scores, whatever their sign."""
    order = torch.where(edges, scores.abs().cpu(), torch.tensor(-1.0, dtype=scores.dtype)).flatten()
    return torch.zeros(edges.numel(), dtype=torch.bool).index_fill(0, order.topk(size).indices, True).view_as(edges)


def chance(edges: Tensor, size: int, draw: torch.Generator) -> Tensor:
    """(W, R) bool: as many edges at random."""
    return best(torch.rand(edges.shape, generator=draw, device="cpu"), edges, size)


def row(graph: Graph, cases: Sequence[Case], circuit: Tensor, random: Sequence[Tensor]) -> dict[str, float]:
    """Mean log-odds of the circuit, of all but it, and the same of random circuits, the mean over them."""
    edges = graph.edges
    every = [circuit, *random]
    found = odds(graph, cases, torch.stack([*every, *(edges & ~each for each in every)]))
    kept, left = found[: len(every)], found[len(every) :]
    return {
        "edges": float(circuit.sum()),
        "with": kept[0],
        "without": left[0],
        "random_with": sum(kept[1:]) / max(1, len(random)),
        "random_without": sum(left[1:]) / max(1, len(random)),
    }
