"""Narrow a feed-forward by merging hidden neurons: where each one's share goes is a discrete optimal transport.

k of the n neurons are the targets. With C_ij the distance between the activations of neuron i and of target j over the
calibration tokens, the plan is the entropic one between uniform masses (Sinkhorn):

    P = argmin over P 1 = 1/n, P^T 1 = 1/k of  sum_ij C_ij P_ij - eps H(P),      T = k P,  so that T^T 1 = 1

A new neuron is the weighted mean of those it is made of, and what reads them reads them back by the pseudo-inverse:

    W_up' = T^T W_up,   W_gate' = T^T W_gate,   W_down' = W_down (T^T)^+

Equal neurons are merged without loss, and with k = n and eps -> 0 nothing changes. Nothing is thrown away, as it is
where neurons are pruned (`width`).

Paper: "DOTResize: Reducing LLM Width via Discrete Optimal Transport-based Neuron Merging". The transport, its
regularisation and the pair of T and its inverse are the abstract's and a figure's; which neurons are the targets, the
distance and eps are not confirmed: here those of the largest activation times output weight (as `width` keeps), the
Euclidean distance, and 1/20 of the mean distance.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.contract import Operator
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.prune.width import hidden_gram, sliced, strongest
from layersmith.refitting.view import SublayerView

KEEPS = (0.875, 0.75, 0.5)
#: eps as a share of the mean distance.
ENTROPY = 0.05
#: Sinkhorn stops when no mass is off by more than this share of it, or after so many rounds.
TOLERANCE, ROUNDS = 1e-6, 1000


class DOTResize(Method):
    name = "dotresize"
    kinds = ("ffn",)
    papers = ("dotresize-reducing-llm-width-discrete",)
    missing = "the width of the residual stream, whose plan a QR factorization leads past the norms"
    builds = ("glu", "mlp")
    default = False
    saves = ("latency", "params", "bytes", "flops")
    chains = True
    requires = "a plain or gated feed-forward"
    statistics = ("inputs",)
    distils = True
    when_it_pays = "Where many hidden neurons fire alike; elsewhere `width` is several times closer."
    differs = "A short local distillation follows."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": keep} for keep in KEEPS]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, gram = view.ffn.operator, hidden_gram(view)
        score = gram.diagonal().sqrt() * dense.down.weight.norm(dim=0)
        targets = strongest(score, settings["keep"])
        plan = transport(distances(gram, targets), ENTROPY)
        return view.as_replacement(merged(dense, targets, plan))


def distances(gram: Tensor, targets: Tensor) -> Tensor:
    """(n, k): the Euclidean distance of each neuron's activations from each target's, a token's mean square."""
    size = gram.diagonal()
    return (size[:, None] + size[targets] - 2 * gram[:, targets]).clamp_min(0).sqrt()


def transport(cost: Tensor, entropy: float) -> Tensor:
    """The entropic plan (n, k) between uniform masses, by Sinkhorn's iteration on logarithms, in float64.

    entropy  eps of the formula above, as a share of the mean cost
    """
    n, k = cost.shape
    scores = -cost.double() / (entropy * cost.double().mean().clamp_min(1e-30))
    rows, columns = scores.new_zeros(n), scores.new_zeros(k)
    for _ in range(ROUNDS):
        rows = -math.log(n) - (scores + columns).logsumexp(1)
        columns = -math.log(k) - (scores + rows[:, None]).logsumexp(0)
        plan = (scores + rows[:, None] + columns).exp()
        if float((n * plan.sum(1) - 1).abs().max()) < TOLERANCE:
            break
    return plan


@torch.no_grad()
def merged(dense: Any, targets: Tensor, plan: Tensor) -> Operator:
    """The `GLU` or `MLP` whose neurons are the means of what the plan (n, k) brings to each target."""
    share = len(targets) * plan  # T
    small: Any = sliced(dense, targets)  # of the right shape; its weights are overwritten
    for name in ("gate", "up") if dense.name == "glu" else ("up",):
        large, linear = getattr(dense, name), getattr(small, name)
        linear.weight.copy_(share.T @ large.weight.double())
        if linear.bias is not None:
            linear.bias.copy_(share.T @ large.bias.double())
    small.down.weight.copy_(dense.down.weight.double() @ torch.linalg.pinv(share.T))
    return small
