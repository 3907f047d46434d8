"""Fits a gate of `split_ffn` to what an oracle says: which groups of neurons each token needs.

    needed_by_activation   sum over the group of |hidden activation|; for ReLU the sum of the positive ones
    needed_by_error        -|E_e(x) - y k / E|^2: how near one group comes to its share of the dense output y
    fit_linear             ridge regression of the first, its logits made small
    fit_prior              KL(softmax(R x + r) | softmax(t)), t = 1 at the k most needed and 0 elsewhere
    fit_mlp                binary cross-entropy of M tanh(R x / |x|) to the first, as a share of its largest value

Papers: needed_by_activation and fit_mlp are MoEfication's, with its start (R the means of the groups' unit keys, M =
I), learning rate and loss (arXiv 2110.01786, confirmed in thunlp/MoEfication, which computes the targets of inputs of
length 1, as shares of the largest of each batch, and takes the second best of 30 epochs); needed_by_error and fit_prior
are FactorLLM's prior-approximate loss (confirmed in zhenwuweihe/FactorLLM: this direction of the KL, softmaxed
targets).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.ffn.split_ffn import SplitFFN
from layersmith.refitting.methods.least_squares import ridge

#: Steps of Adam, and tokens of one step.
STEPS, BATCH, RATE = 300, 512, 0.01
#: Standard deviation of a linear gate's logits at the start: small, so that weighed groups start nearly equal.
SPREAD = 0.01


def needed_by_activation(hidden: Tensor, groups: Tensor) -> Tensor:
    """(tokens, E) from the dense layer's hidden activations (tokens, neurons) and the groups (E, size)."""
    return hidden.abs()[:, groups].sum(-1)


def needed_by_error(hidden: Tensor, groups: Tensor, down: Tensor, k: int) -> Tensor:
    """(tokens, E): how little each group's own output misses k / E of all groups' together; down is (D, neurons)."""
    share = hidden @ down.T * (k / len(groups))
    each = [hidden[:, group] @ down[:, group].T for group in groups]
    return -torch.stack([(own - share).square().mean(-1) for own in each], dim=-1)


@torch.no_grad()
def fit_linear(part: SplitFFN, x: Tensor, needed: Tensor) -> None:
    """The router as the ridge fit of what is needed (tokens, E) from x (tokens, D); only differences decide."""
    weight, bias = ridge(x, needed - needed.mean(1, keepdim=True), strength=1e-2)
    small = SPREAD / (x @ weight.T + bias).std().clamp_min(1e-12)
    part.choice.weight.copy_(weight * small)
    part.choice.bias.copy_(bias * small)


def fit_prior(part: SplitFFN, x: Tensor, needed: Tensor) -> None:
    """The router trained to spread its probability as the k most needed groups would have it."""
    target = torch.zeros_like(needed).scatter(1, needed.topk(part.k).indices, 1.0).softmax(-1)
    fit_linear(part, x, needed)

    def loss(rows: Tensor) -> Tensor:
        p = part.scores(x[rows]).log_softmax(-1)
        return (p.exp() * (p - target[rows].log())).sum(-1).mean()

    _train(part.choice, len(x), loss)


def fit_mlp(part: SplitFFN, x: Tensor, needed: Tensor) -> None:
    """The MLP gate trained to predict the share of the largest sum of activations."""
    share = needed / needed.max().clamp_min(1e-12)
    with torch.no_grad():
        keys = F.normalize(part.keys()[0][part.n_shared :], dim=-1)
        part.choice.weight.copy_(keys.mean(1))
        part.choice.mix.zero_().fill_diagonal_(1.0)
    _train(part.choice, len(x), lambda rows: F.binary_cross_entropy_with_logits(part.scores(x[rows]), share[rows]))


def _train(gate: nn.Module, tokens: int, loss: Callable[[Tensor], Tensor]) -> None:
    """Adam on the gate alone; the tokens of a step are drawn on the CPU, the same everywhere."""
    draw: Any = {"generator": torch.Generator().manual_seed(0), "device": "cpu"}
    optimizer = torch.optim.Adam(gate.parameters(), lr=RATE)
    with torch.enable_grad():
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss(torch.randint(tokens, (min(BATCH, tokens),), **draw)).backward()
            optimizer.step()
    gate.zero_grad(set_to_none=True)
