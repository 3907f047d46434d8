"""Edge attribution with integrated gradients: what every edge is worth, from a few forward and backward passes.

Taking away the edge from writer w to reader r changes what r sees by y'_w - y_w, and the log-odds m by about

    score(w, r) = sum (y'_w - y_w) . mean_k  dm/dx_r  at  embedding y'_0 + a_k (y_0 - y'_0),   a_k = (k - 1/2) / n

summed over positions and width, in nats, mean over pairs. n = 1 would be attribution patching, with the gradient taken
midway. Over all readers of the embedding the scores add up to m(corrupt) - m(clean), up to the error of the sum in
place of the integral: a check that is measured.

Papers: integrated gradients on edges: Hanna et al. 2024, "Have Faith in Faithfulness"; attribution patching: Nanda
2023. They are no ids of ours; "Towards Automated Circuit Discovery" names the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.explaining.circuits.graph import Case, Graph


def scores(graph: Graph, case: Case, steps: int) -> Tensor:
    """(W, R) nats: what the log-odds of the answer, mean over the pairs, change by when an edge is taken away."""
    moved = (case.off - case.written).flatten(1)
    total = torch.zeros(len(graph.writers), len(graph.readers), device=moved.device, dtype=moved.dtype)
    for step in range(steps):
        slopes = graph.gradients(case, (step + 0.5) / steps)
        total += moved @ slopes.flatten(1).T / steps
    return torch.where(graph.edges.to(total.device), total, torch.zeros_like(total))
