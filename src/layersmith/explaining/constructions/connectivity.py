"""Attention over the rows of an adjacency matrix: L layers know which nodes are within 3^L steps of each other.

A token is a node's row of P, at first of A with a loop at every node. One head whose four maps are the identity gives

    P <- (P P^T) P / n^2 = P^3 / n^2

for a symmetric P, so that after L layers P is A^(3^L) times a factor, and an entry is positive exactly where the two
nodes are joined by at most 3^L edges. The factor keeps walks from being counted beyond what a float holds; with five
layers it would itself make entries smaller than that.

Paper: Ye et al. 2025, "When Do Transformers Learn Heuristics for Graph Connectivity?", arXiv 2510.19753.
Differs from the paper: its transformers keep every layer's input beside its output; the copies, which nothing reads
here, are left out, and so is the residual sum. The division by n^2 is ours.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor, nn

from layersmith.explaining.constructions.construction import Claim, Construction, Setting, Settings
from layersmith.explaining.constructions.shared.wiring import finished, theory_attention, wire


class Powers(nn.Module):
    """adjacency (B, n, n) of 0 and 1, symmetric -> entries (B, n, n), positive where the nodes are within reach."""

    def __init__(self, nodes: int, layers: int, factor: float):
        super().__init__()
        every = slice(0, nodes)
        made = [theory_attention(nodes, 1, nodes) for _ in range(layers)]
        self.layers = nn.ModuleList(made)
        for layer in made:
            for linear in (layer.q, layer.k, layer.v):
                wire(linear, (every, every, 1.0))
            wire(layer.o, (every, every, factor))

    def forward(self, adjacency: Tensor) -> Tensor:
        x = (adjacency.double() + torch.eye(adjacency.shape[-1]).double()).clamp(max=1)
        for layer in self.layers:
            x = layer(x)[0]
        return x


class Connectivity(Construction):
    name = "connectivity"
    summary = "L layers of linear attention on an adjacency matrix decide what is connected within 3^L steps"
    papers = ("transformers-learn-heuristics-graph-connectivity",)
    settings = {  # noqa: RUF012
        "nodes": Setting(40, 4, 400, "the number of nodes"),
        "layers": Setting(3, 1, 4, "the number of layers"),
        "seed": Setting(0, 0, 2**31, "the seed of the random graphs"),
    }

    def build(self, settings: Settings) -> nn.Module:
        return finished(Powers(settings["nodes"], settings["layers"], settings["nodes"] ** -2.0))

    def claims(self, settings: Settings) -> list[Claim]:
        nodes, reach = settings["nodes"], 3 ** settings["layers"]
        graphs = [_random_graph(nodes, settings["seed"] + number) for number in range(4)]
        line = [(a, a + 1) for a in range(nodes - 1)]
        claims = [
            Claim(
                f"it finds what is within {reach} steps on random graphs",
                f"errors on all pairs of {nodes} nodes, 4 graphs",
                lambda m: sum(_errors(m, nodes, graph, reach) for graph in graphs),
                most=0,
            ),
            Claim(
                f"it finds what is within {reach} steps on a line, and nothing farther",
                f"errors on all pairs of {nodes} nodes",
                lambda m: _errors(m, nodes, line, reach),
                most=0,
            ),
        ]
        if nodes > reach + 1:
            beyond = Claim(
                f"{reach + 1} steps are out of reach",
                "nodes of a line that are connected and not found",
                lambda m: _errors(m, nodes, line, nodes),
                least=2,
                limit=True,
            )
            claims.append(beyond)
        unscaled = Claim(
            "without the division by n^2 walks are too many for a float: 6 layers, all nodes joined",
            "entries that are no finite number",
            lambda m: float((~_complete(Powers(nodes, 6, 1.0), nodes).isfinite()).sum()),
            least=1,
            limit=True,
        )
        return [*claims, unscaled]


def _random_graph(nodes: int, seed: int) -> list[tuple[int, int]]:
    """About one edge a node: a few large pieces and many small ones."""
    draw = random.Random(seed)
    return [(draw.randrange(nodes), draw.randrange(nodes)) for _ in range(nodes)]


def _matrix(nodes: int, edges: list[tuple[int, int]]) -> Tensor:
    adjacency = torch.zeros(1, nodes, nodes, dtype=torch.float64)
    for a, b in edges:
        adjacency[0, a, b] = adjacency[0, b, a] = 1.0
    return adjacency


def _errors(module: nn.Module, nodes: int, edges: list[tuple[int, int]], reach: int) -> int:
    """Pairs on which the network and a breadth-first search of at most `reach` steps disagree."""
    found = (module(_matrix(nodes, edges))[0] > 0).tolist()
    beside: list[set[int]] = [set() for _ in range(nodes)]
    for a, b in edges:
        beside[a].add(b)
        beside[b].add(a)
    wrong = 0
    for start in range(nodes):
        seen, edge = {start}, {start}
        for _ in range(reach):
            edge = {other for node in edge for other in beside[node]} - seen
            seen |= edge
        wrong += sum(found[start][node] != (node in seen) for node in range(nodes))
    return wrong


def _complete(module: nn.Module, nodes: int) -> Tensor:
    return finished(module)(torch.ones(1, nodes, nodes))
