"""Which neurons of a dense feed-forward stand together: int64 (E, size), every row sorted, every neuron named once.

    random        drawn
    in_order      as they stand
    by_keys       balanced k-means on the rows on the way in, each scaled to length 1
    by_together   a balanced partition of the co-activation graph: neurons that are active at the same tokens
    by_importance in the order of a score, the highest first

`split` sets the groups for every token apart first. Papers: by_keys and by_together are MoEfication's (arXiv
2110.01786; unit rows confirmed in thunlp/MoEfication), by_keys also LLaMA-MoE's and EMoE's, random LLaMA-MoE's,
in_order FactorLLM's, by_importance Dense2MoE's for what is shared. MoEfication partitions its graph by METIS; here
groups of equal size are found by assignment, and then pairs of neurons change places as long as that keeps more edges
inside.
"""

from __future__ import annotations

from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP

#: Rounds of k-means, and exchanges of two neurons in a partition of the graph.
ROUNDS, EXCHANGES = 4, 200


def random(neurons: int, n_experts: int, seed: int, device: torch.device | None = None) -> Tensor:
    """Groups drawn at random, the same on every device."""
    draw: Any = {"generator": torch.Generator().manual_seed(seed), "device": "cpu"}
    return torch.randperm(neurons, **draw).to(device).unflatten(0, (n_experts, -1)).sort(1).values


def in_order(neurons: int, n_experts: int, device: torch.device | None = None) -> Tensor:
    """Neighbours."""
    return torch.arange(neurons, device=device).unflatten(0, (n_experts, -1))


@torch.no_grad()
def by_keys(keys: Tensor, n_experts: int) -> Tensor:
    """Balanced k-means on keys (neurons, D): Euclidean, on unit rows, from centroids far from each other."""
    unit = torch.nn.functional.normalize(keys.float(), dim=1)
    centroids = unit[_spread(unit, n_experts)]
    for _ in range(ROUNDS):
        label = equal_clusters(torch.cdist(unit, centroids).square())
        centroids = torch.stack([unit[label == e].mean(0) for e in range(n_experts)])
    return members(label, n_experts)


@torch.no_grad()
def by_together(together: Tensor, n_experts: int) -> Tensor:
    """A balanced partition of the graph with the edge weights `together` (neurons, neurons), symmetric.

    It maximises the weight of edges inside groups. The start is balanced k-means on the rows, which puts together what
    has the same neighbours; the best exchange of two neurons is then made until none gains, or `EXCHANGES` times.
    """
    edges = together.float()
    edges = edges - torch.diag(edges.diagonal())
    label = labels(by_keys(edges, n_experts))
    for _ in range(EXCHANGES):
        inside = (label[:, None] == torch.arange(n_experts, device=label.device)).to(edges)
        pull = edges @ inside
        own = pull.gather(1, label[:, None])
        moved = pull[:, label] - own  # [i, j]: what i gains by standing in j's group, j still in it
        gain = (moved + moved.T - 2 * edges).masked_fill(label[:, None] == label, float("-inf"))
        best = int(gain.argmax())
        if not gain.flatten()[best] > 1e-6 * edges.abs().max():
            break
        pair = [best // len(edges), best % len(edges)]
        label[pair] = label[pair[::-1]]
    return members(label, n_experts)


def by_importance(score: Tensor, n_experts: int) -> Tensor:
    """The neurons (neurons,) in descending order of their score, cut into groups."""
    return score.argsort(descending=True, stable=True).unflatten(0, (n_experts, -1)).sort(1).values


def split(score: Tensor, n_shared: int, n_experts: int) -> tuple[Tensor, Tensor]:
    """The neurons of the highest score (neurons,) as shared groups (n_shared, size), and the others (rest,), sorted."""
    size = len(score) // (n_shared + n_experts)
    order = score.argsort(descending=True, stable=True)
    shared, rest = order[: n_shared * size], order[n_shared * size :]
    return shared.sort().values.unflatten(0, (n_shared, size)), rest.sort().values


def keys_of(dense: GLU | MLP) -> Tensor:
    """(neurons, D): what each neuron looks for; in a gated layer that is its gate's row."""
    return (dense.gate if isinstance(dense, GLU) else dense.up).weight.detach()


def equal_clusters(cost: Tensor) -> Tensor:
    """The cluster of each point, (n,), of least total cost (n, clusters) among those of equal sizes."""
    # Each cluster offers as many seats as it has places; points are assigned to seats.
    seats = cost.repeat_interleave(len(cost) // cost.shape[1], dim=1)
    _, seat = linear_sum_assignment(seats.double().cpu().numpy())
    return torch.from_numpy(seat).to(cost.device) // (len(cost) // cost.shape[1])


def members(label: Tensor, n_experts: int) -> Tensor:
    """(E, size) from the group of each neuron."""
    return torch.stack([(label == e).nonzero()[:, 0] for e in range(n_experts)])


def labels(groups: Tensor) -> Tensor:
    """The group of each neuron, from (E, size)."""
    return groups.flatten().argsort() // groups.shape[1]


def _spread(points: Tensor, count: int) -> list[int]:
    """Points far from each other: the one furthest from the mean, then always the one furthest from all before."""
    chosen = [int((points - points.mean(0)).norm(dim=1).argmax())]
    nearest = (points - points[chosen[0]]).norm(dim=1)
    while len(chosen) < count:
        nearest[chosen[-1]] = -1
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (points - points[chosen[-1]]).norm(dim=1))
    return chosen
