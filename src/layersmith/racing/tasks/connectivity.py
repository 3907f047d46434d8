"""Graph connectivity: which nodes can be reached from the first one?

A random graph of n nodes, each pair joined with probability degree / (n - 1). Position i reads row i of the adjacency
matrix (with ones on the diagonal, which tell it who it is) and says whether a path leads from node 0 to node i. A layer
that composes two hops triples or doubles its reach, so the depth bounds the distance that can be seen; the yardsticks
say "yes" to all nodes within so many hops.

Paper: "When Do Transformers Learn Heuristics for Graph Connectivity?" (adjacency rows; there all pairs are asked).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import number, whole
from layersmith.racing.tasks.shared.drawing import judged


class Connectivity(Task):
    """
    n_nodes  nodes of a graph
    degree   neighbours that a node has on average
    """

    name = "connectivity"
    summary = "Tell which nodes of a random graph can be reached from the first one."
    papers = ("transformers-learn-heuristics-graph-connectivity",)
    reads = "features"
    causal = False

    def __init__(self, n_nodes: int = 24, degree: float = 1.5):
        self.tokens = self.n_inputs = whole("n_nodes", n_nodes, 2)
        self.degree = number("degree", degree, 0, n_nodes - 1)
        self.n_outputs = 2

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        n = self.tokens
        upper = (torch.rand(size, n, n, generator=generator, device="cpu") < self.degree / (n - 1)).float().triu(1)
        adjacency = upper + upper.mT + torch.eye(n)
        return Batch(adjacency, within(adjacency, n - 1).long())

    def yardsticks(self) -> dict[str, float]:
        """random: a coin; constant: the more frequent answer; hops: yes to all within so many. On 2048 graphs."""
        batch = judged(self)
        share = float(batch.targets.double().mean())
        hops = {f"{k} hops": self._right(within(batch.inputs, k), batch) for k in (2, 4)}
        return {"random": 0.5, "constant": max(share, 1 - share), **hops, "oracle": 1.0}

    def _right(self, answers: Tensor, batch: Batch) -> float:
        return float((answers == batch.targets).double().mean())


def within(adjacency: Tensor, hops: int) -> Tensor:
    """Which nodes lie within so many hops of node 0: (B, n) bool."""
    reached = torch.zeros(adjacency.shape[:2])
    reached[:, 0] = 1
    for _ in range(hops):
        further = ((reached[:, None] @ adjacency)[:, 0] > 0).float()
        if torch.equal(further, reached):
            break
        reached = further
    return reached > 0
