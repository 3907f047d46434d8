"""Product keys near a trained layer: a query of few numbers that predicts how strongly each hidden neuron fires."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.product_keys import ProductKeys
from layersmith.refitting.methods.clustering import kmeans

#: Width of the queries: enough that a trained layer's strongest neurons are mostly found.
D_KEY = 128


@dataclass(frozen=True)
class NeuronKeys:
    """Neuron j fires at about first[j] . q1 + second[j] . q2, where [q1, q2] = query @ x + bias.

    Both halves end in a number that is 1 in every query: in the first half it multiplies the neuron's bias.
    """

    query: Tensor
    bias: Tensor
    first: Tensor
    second: Tensor


@torch.no_grad()
def neuron_keys(mlp: MLP, x: Tensor, scale: Tensor) -> NeuronKeys:
    """Keys for the pre-activations, times `scale` (d_hidden,), of an MLP's hidden neurons on inputs like x (tokens, D).

    The best approximation of that rank on those inputs, its components dealt to the two halves in turn.
    """
    d_model = x.shape[1]
    rank = min(D_KEY - 2, 2 * (d_model // 2))
    weight = (scale[:, None] * mlp.up.weight).double()
    cov = x.double().T @ x.double() / len(x)
    eye = torch.eye(d_model, dtype=cov.dtype, device=cov.device)
    root = torch.linalg.cholesky(cov + 1e-4 * cov.diagonal().mean() * eye)
    left, size, right = torch.linalg.svd(weight @ root, full_matrices=False)
    kept = min(rank, 2 * (len(size) // 2))
    spread = size[:kept].sqrt()
    query = torch.linalg.solve_triangular(root.T, (spread[:, None] * right[:kept]).T, upper=True).T
    keys = left[:, :kept] * spread
    row = query.new_zeros(1, d_model)
    bias = keys.new_zeros(len(keys)) if mlp.up.bias is None else scale * mlp.up.bias
    half = kept // 2 + 1
    one = x.new_zeros(2 * half)
    one[half - 1] = one[-1] = 1.0
    return NeuronKeys(
        query=torch.cat([query[0::2], row, query[1::2], row]).float(),
        bias=one,
        first=torch.cat([keys[:, 0::2], bias[:, None]], 1).float(),
        second=torch.cat([keys[:, 1::2], keys.new_zeros(len(keys), 1)], 1).float(),
    )


def side(d_hidden: int) -> int:
    """The smallest n with n^2 slots for d_hidden neurons."""
    return math.isqrt(d_hidden - 1) + 1


@torch.no_grad()
def set_search(search: ProductKeys, keys: NeuronKeys, n_keys: int, seed: int = 0) -> None:
    """One head whose half keys are the centroids of the neurons' half keys."""
    search.query.weight.copy_(keys.query)
    search.query.bias.copy_(keys.bias)
    search.keys[0, 0].copy_(kmeans(keys.first, n_keys, seed=seed))
    search.keys[0, 1].copy_(kmeans(keys.second, n_keys, seed=seed))


@torch.no_grad()
def features(slots: Tensor, values: Tensor, width: int) -> Tensor:
    """(tokens, width): the value each token gives to each slot it uses, 0 elsewhere; slots and values (tokens, k)."""
    return values.new_zeros(len(slots), width).scatter_add_(1, slots, values)


def d_key_of(keys: NeuronKeys) -> dict[str, Any]:
    """Configuration that fits these keys."""
    return {"heads": 1, "d_key": len(keys.query), "query_norm": False}
