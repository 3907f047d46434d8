"""Rules that say what a sparse latent is without looking at what it reads, and how their answers get its distribution.

For `partial_rewrite.py`. Functions of tensors: tokens are windows (W, T) of ids, codes are latents (N, F), at least 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.ffn.shared.sparse_codes import largest


def contexts(ids: Tensor, tokens: int, vocabulary: int) -> Tensor:
    """(W * T,) one number for the last `tokens` tokens at each place of windows (W, T), which begin after nothing."""
    places = F.pad(ids, (tokens - 1, 0), value=-1) + 1
    found = torch.zeros_like(ids)
    for back in range(tokens):
        found = found * (vocabulary + 1) + places[:, back : back + ids.shape[1]]
    return found.flatten()


def expected(seen: Tensor, codes: Tensor, asked: Tensor, otherwise: Tensor, prior: float) -> Tensor:
    """(M, F): the mean of the codes (N, F) seen in the same context; in one that was not seen, what is so otherwise.

    seen, asked  (N,), (M,) contexts as numbers
    otherwise    (M, F), which counts in every mean as `prior` examples
    """
    kinds, kind = asked.unique(return_inverse=True)
    near = torch.searchsorted(kinds, seen).clamp_max(len(kinds) - 1)
    known = kinds[near] == seen
    sums = codes.new_zeros(len(kinds), codes.shape[1]).index_add_(0, near[known], codes[known])
    counts = torch.bincount(near[known], minlength=len(kinds)).to(codes.dtype)[:, None]
    means = sums / counts.clamp_min(1)
    return otherwise.lerp(means[kind], (counts / (counts + prior).clamp_min(1e-9))[kind])


def named(seen: Tensor, codes: Tensor, asked: Tensor, most: int) -> Tensor:
    """(M, F): the mean of the codes (N, F) at the same token, for the `most` tokens where a latent sums to most, or 0.

    seen, asked  (N,), (M,) tokens
    """
    kinds = torch.cat([seen, asked]).unique()
    means = expected(seen, codes, kinds, codes.new_zeros(len(kinds), codes.shape[1]), 0.0)
    sums = means * torch.bincount(torch.searchsorted(kinds, seen), minlength=len(kinds))[:, None]
    chosen = sums.topk(min(most, len(kinds)), dim=0).indices
    table = torch.zeros_like(means).scatter_(0, chosen, means.gather(0, chosen))
    return table[torch.searchsorted(kinds, asked)]


def levels(codes: Tensor, count: int) -> list[Tensor]:
    """Of each latent in codes (N, F) the values above 0 that `count` tokens would have, descending.

    They are its quantiles at the middles of `count` equal shares: for count = N, all of its own values above 0.
    """
    places = ((torch.arange(count, dtype=torch.float64) + 0.5) / count * len(codes)).long()
    found = []
    for latent in codes.T:
        values = latent[latent > 0].sort(descending=True).values
        found.append(values[places[places < len(values)]])
    return found


def normalised(predicted: Tensor, target: list[Tensor], generator: torch.Generator) -> Tensor:
    """(M, F): each latent's values of `levels(..., M)` where its predictions (M, F) are largest, in their order, or 0.

    Equal predictions come in a random order, another one for each latent: the values are the target's, whatever ties.
    """
    found = torch.zeros_like(predicted)
    for latent, values in enumerate(target):
        mixed = torch.randperm(len(predicted), generator=generator)
        order = predicted[mixed, latent].topk(len(values)).indices
        found[mixed[order], latent] = values
    return found


def only_largest(codes: Tensor, k: int) -> Tensor:
    """Codes (M, F) of which the k largest of each token are left, and the others 0."""
    values, chosen = largest(codes, k)
    return torch.zeros_like(codes).scatter_(1, chosen, values)
