"""What a dictionary's weights alone say: tokens promoted, neighbours, shares of heads, features that feed a feature.

    promoted     decoder row . unembedding of each token
    neighbours   cosine of decoder rows
    heads        norm of a decoder row's slice of each head, as a share of all (arXiv 2406.17759)
    connections  t^-1 s' (decoder row i of the earlier . encoder row j of the later): what a unit of f_i adds to the
                 pre-activation of j through the residual stream; times f_i(x) it is the contribution on a token, and
                 the contributions sum to the pre-activation where no norm stands between (arXiv 2406.11944)

The share of heads is from memory of the paper; the product of decoder and encoder rows is confirmed in its abstract (a
factor that depends on the input times one that does not).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.errors import UserError
from layersmith.explaining.dictionaries.agreement import cosines
from layersmith.ffn.sparse_dictionary import SparseDictionary


@torch.no_grad()
def promoted(
    dictionary: SparseDictionary, features: Tensor, unembedding: Tensor, top: int = 10
) -> list[dict[str, Any]]:
    """For each of these features: token ids to which one unit of it adds the largest and the smallest logits.

    features     int64 (M,)
    unembedding  (vocabulary, D), the model's output matrix; the norm before it is left out
    """
    directions = dictionary.decoder[features] / dictionary.output_scale
    found = []
    for direction in directions:
        logits = unembedding.to(direction.dtype) @ direction
        up, down = logits.topk(top), (-logits).topk(top)
        found.append({"promoted": _pairs(up.indices, up.values), "demoted": _pairs(down.indices, -down.values)})
    return found


@torch.no_grad()
def neighbours(dictionary: SparseDictionary, features: Tensor, top: int = 5) -> list[list[dict[str, float]]]:
    """For each of these features (int64 (M,)): the others whose decoder rows have the largest cosines with its own."""
    found = cosines(dictionary.decoder[features], dictionary.decoder)
    found[torch.arange(len(features)), features] = -2.0
    best = found.topk(min(top, found.shape[1] - 1))
    return [
        [{"feature": int(j), "cosine": round(float(c), 4)} for j, c in zip(rows, values, strict=True)]
        for rows, values in zip(best.indices, best.values, strict=True)
    ]


@torch.no_grad()
def head_shares(dictionary: SparseDictionary, heads: int) -> Tensor:
    """(F, heads): of a dictionary of concatenated heads, each head's share of each feature; rows sum to 1."""
    features, width = dictionary.decoder.shape
    if width % heads:
        raise UserError(f"{width} channels do not divide into {heads} heads.")
    norms = dictionary.decoder.view(features, heads, -1).norm(dim=-1)
    return norms / norms.sum(-1, keepdim=True)


@torch.no_grad()
def connections(earlier: SparseDictionary, later: SparseDictionary, feature: int) -> Tensor:
    """(F of the earlier,): what one unit of each adds to the pre-activation of that feature of the later one."""
    if earlier.decoder.shape[1] != later.encoder.in_features:
        raise UserError(
            f"The earlier dictionary writes {earlier.decoder.shape[1]} channels, the later one reads "
            f"{later.encoder.in_features}: they are not of one residual stream."
        )
    return earlier.decoder @ later.encoder.weight[feature] * (later.input_scale / earlier.output_scale)


def _pairs(ids: Tensor, values: Tensor) -> list[list[float]]:
    return [[int(i), round(float(v), 5)] for i, v in zip(ids, values, strict=True)]
