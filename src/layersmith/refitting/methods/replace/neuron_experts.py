"""A trained feed-forward's neurons as experts: which neurons belong together, and a router that knows who matters.

Shared by the methods that turn a dense feed-forward into a mixture of experts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.methods.prune.carve import ACTIVE, balanced_kmeans
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView

#: Standard deviation of the router's logits at the start. Small, so that the experts' weights start nearly equal, as
#: the neurons of a dense layer have them; which experts are chosen does not depend on it.
SPREAD = 0.01
TOKENS = 4096


def refuses_experts(view: SublayerView, n_experts: int) -> str | None:
    """Why the site's neurons cannot be cut into that many experts without biases; None when they can."""
    if view.ffn is None:
        return "it is not a plain or gated feed-forward"
    dense = view.ffn.operator
    if dense.spec()["bias"]:
        return "its feed-forward has biases"
    hidden = dense.down.in_features
    return f"its {hidden} neurons do not divide into {n_experts} experts" if hidden % n_experts else None


@torch.no_grad()
def neuron_groups(dense: Any, x: Tensor, n_experts: int) -> tuple[Tensor, Tensor]:
    """Neurons that fire together, and a router: indices (E, d_hidden / E), router (E, D).

    A neuron's strength at a token is the length of what it adds to the output. Per token the strongest are marked, and
    neurons are grouped by who marks them (`carve`); the router is the ridge fit of each group's joint strength.
    """
    x = x[:TOKENS]
    strength = hidden_activations(dense, x).abs() * dense.down.weight.float().norm(dim=0)
    marks = torch.zeros_like(strength)
    marks.scatter_(1, strength.topk(max(1, int(ACTIVE * strength.shape[1])), dim=1).indices, 1.0)
    order = spread_first(marks.T, n_experts)
    members, _ = balanced_kmeans(marks.T[order], n_experts)
    groups = order[members].sort(1).values
    joint = strength.square()[:, groups].sum(2).sqrt()
    joint = joint - joint.mean(1, keepdim=True)  # only differences between experts decide
    router, _ = ridge(x, joint, strength=1e-2, bias=False)
    return groups, router * (SPREAD / (x @ router.T).std().clamp_min(1e-12))


def spread_first(points: Tensor, first: int) -> Tensor:
    """An order of binary points (n, features) that opens with `first` of them far from each other, to seed clusters."""
    seeds = [int(points.sum(1).argmax())]
    nearest = points.new_full((len(points),), torch.inf)
    for _ in range(first - 1):
        nearest = torch.minimum(nearest, torch.cdist(points, points[seeds[-1:]], p=1)[:, 0])
        nearest[seeds[-1]] = -1
        seeds.append(int(nearest.argmax()))
    rest = torch.ones(len(points), dtype=torch.bool, device=points.device)
    rest[seeds] = False
    return torch.cat([torch.tensor(seeds, device=points.device), rest.nonzero()[:, 0]])


@torch.no_grad()
def fit_down(hidden: Tensor, share: Tensor, targets: Tensor) -> Tensor:
    """The experts' output maps by ridge regression, given what each token uses.

    hidden (N, E, d_expert), share (N, E) the weight of each expert (0 where it is not chosen), targets (N, D)
    -> (E, D, d_expert).
    """
    weight, _ = ridge((hidden * share[..., None]).flatten(1), targets, strength=1e-4, bias=False)
    return weight.unflatten(1, hidden.shape[1:]).transpose(0, 1)
