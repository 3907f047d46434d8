"""Carve experts out of a dense gated feed-forward: often-used neurons are shared, the rest become routed experts.

Paper: CMoE, arXiv 2502.04416. Per token the K_a strongest neurons are marked; neurons marked most often form
the shared experts; the others are grouped by balanced k-means on who marks them (equal sizes, by optimal assignment),
and each group's neuron nearest its centroid represents it to the router.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.carved_moe import CarvedMoE
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.experts.partitions import equal_clusters
from layersmith.refitting.methods.prune.topk import gated_without_bias
from layersmith.refitting.view import SublayerView

EXPERTS = 8
#: Share of a token's hidden neurons that counts as strongly active.
ACTIVE = 0.1


class Carve(Method):
    name = "carve"
    kinds = ("ffn",)
    papers = ("2502.04416",)
    builds = ("carved_moe",)
    default = True
    saves = ("flops",)
    requires = "a gated feed-forward without biases whose hidden channels divide into the experts"
    statistics = ("inputs",)
    distils = True
    when_it_pays = (
        "At batch sizes where experts are skipped for real; on a CPU gathering tokens costs too, and the measured "
        "latency decides."
    )
    differs = (
        "No LoRA fine-tuning here (distillation and healing come after, as for every method); in the released code K_a "
        "is 10 neurons, here a tenth of them; it has 16 experts, here 8, one round of assignment, here two, and carves "
        "a layer on the outputs of the layers carved before it."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        reason = gated_without_bias(view)
        if reason:
            return reason
        hidden = view.ffn.operator.down.in_features
        return f"its {hidden} neurons do not divide into {EXPERTS} experts" if hidden % EXPERTS else None

    def options(self, view: SublayerView) -> list[Settings]:
        # shared + k of EXPERTS - shared are active: 3/4 and 1/2 of the neurons
        return [{"shared": 2, "k": 4}, {"shared": 2, "k": 2}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        glu = view.ffn.operator
        x = torch.nn.functional.normalize(view.inputs, dim=-1)
        gate = torch.nn.functional.normalize(glu.gate.weight, dim=-1)
        up = torch.nn.functional.normalize(glu.up.weight, dim=-1)
        strength = (glu.act(x @ gate.T) * (x @ up.T)).abs()
        marks = torch.zeros_like(strength)
        marks.scatter_(1, strength.topk(max(1, int(ACTIVE * strength.shape[1])), dim=1).indices, 1.0)
        size = marks.shape[1] // EXPERTS
        order = marks.mean(0).argsort(descending=True, stable=True)
        shared, rest = order[: settings["shared"] * size], order[settings["shared"] * size :]
        groups, representatives = balanced_kmeans(marks[:, rest].T, len(rest) // size)
        carved = CarvedMoE.from_glu(glu, shared.sort().values, rest[groups], rest[representatives], settings["k"])
        return view.as_replacement(carved)


def balanced_kmeans(points: Tensor, clusters: int, rounds: int = 2) -> tuple[Tensor, Tensor]:
    """Equal-sized clusters of binary points (n, features) under the L1 distance.

    Returns member indices (clusters, n / clusters) and, per cluster, the member nearest its centroid. The first
    points seed the centroids (callers order them by importance).
    """
    centroids = points[:clusters].clone()
    for _ in range(rounds):
        distance = torch.cdist(points, centroids, p=1)
        cluster = equal_clusters(distance)
        centroids = torch.stack([points[cluster == c].mean(0) for c in range(clusters)])
    members = torch.stack([(cluster == c).nonzero()[:, 0] for c in range(clusters)])
    nearest = torch.cdist(points, centroids, p=1).gather(1, cluster[:, None])[:, 0]
    representatives = members.gather(1, nearest[members].argmin(1, keepdim=True))[:, 0]
    return members, representatives
