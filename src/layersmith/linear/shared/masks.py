"""Masks: which weights of a matrix are kept, by a score of each, and how a mask is stored.

    largest        the `kept` highest scores of the whole matrix
    two_four       2:4 along rows: of every 4 neighbours in a row the 2 highest
    transposable   2:4 along rows and columns: every 4 x 4 block has 2 in each row and 2 in each column; of the 90 such
                   patterns the one with the highest sum. The mask of the transposed matrix is the transposed mask.

A product with W^T is sparse in the same way only under the last one, which training with sparse products both ways
needs. Shapes: scores (d_out, d_in) -> bool (d_out, d_in).

Paper: Hu et al. 2024, "Accelerating Transformer Pre-training with 2:4 Sparsity" (the 90 patterns, scored all at once by
one product; confirmed in the authors' code, huyz2023/2by4-pretrain).
"""

from __future__ import annotations

import itertools
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor


def largest(scores: Tensor, kept: int) -> Tensor:
    """Exactly `kept` of the scores, the highest."""
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[scores.flatten().topk(kept).indices] = True
    return mask.view_as(scores)


def two_four(scores: Tensor) -> Tensor:
    """The 2 highest of every 4 neighbours in a row. Raises ValueError where rows do not divide into fours."""
    check_two_four(scores, both=False)
    fours = scores.unflatten(1, (-1, 4))
    mask = torch.zeros_like(fours, dtype=torch.bool)
    return mask.scatter(2, fours.topk(2, dim=2).indices, True).flatten(1)


def transposable(scores: Tensor) -> Tensor:
    """The best 2:4 pattern of both directions for every 4 x 4 block. Raises ValueError where blocks do not fit."""
    check_two_four(scores, both=True)
    known = patterns().to(scores.device)
    blocks = scores.unflatten(0, (-1, 4)).unflatten(2, (-1, 4)).transpose(1, 2)  # (d_out / 4, d_in / 4, 4, 4)
    best = (blocks.flatten(2) @ known.flatten(1).to(scores.dtype).T).argmax(-1)
    return known[best].transpose(1, 2).flatten(2).flatten(0, 1)


@cache
def patterns() -> Tensor:
    """(90, 4, 4) bool: all 4 x 4 patterns with 2 in every row and every column."""
    rows = [row for row in itertools.product((False, True), repeat=4) if sum(row) == 2]
    blocks = itertools.product(rows, repeat=4)
    fitting = [block for block in blocks if all(sum(column) == 2 for column in zip(*block, strict=True))]
    return torch.tensor(fitting, device="cpu")


def check_two_four(weight: Tensor, both: bool) -> None:
    """Raise a ValueError unless the pattern 2:4 fits a matrix (d_out, d_in), in both directions if asked for."""
    d_out, d_in = weight.shape
    if d_in % 4 or (both and d_out % 4):
        sides = f"{d_out} outputs and {d_in} inputs" if both else f"{d_in} inputs"
        raise ValueError(
            f"The pattern 2:4 keeps 2 of every 4 weights that stand beside each other, and a matrix with {sides} does "
            f"not divide into fours. Prune it without a pattern, or choose widths that are multiples of 4."
        )


def pack_bits(mask: Tensor) -> Tensor:
    """bool (d_out, d_in) -> uint8 (d_out, ceil(d_in / 8)), the first weight in the lowest bit."""
    bytes_ = F.pad(mask, (0, -mask.shape[1] % 8)).unflatten(1, (-1, 8))
    return (bytes_.int() << _places(mask)).sum(-1).to(torch.uint8)


def unpack_bits(packed: Tensor, d_in: int) -> Tensor:
    """The inverse of `pack_bits`."""
    return ((packed[..., None].int() >> _places(packed)) & 1).flatten(1)[:, :d_in].bool()


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, device=like.device, dtype=torch.int32)
