"""Deletion: how fast the answer falls when the tokens that matter most are taken away first.

The better a ranking, the more the score falls at few deletions. Tokens go one after the other, the most supporting
first; the position that answers stays. A deleted token is what enters the first block on average.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.explaining.decompositions.rivals import Score

#: Shares of the tokens deleted at which the fall is told.
SHARES = (0.1, 0.2, 0.3, 0.5)


@torch.no_grad()
def falls(score: Score, x: Tensor, base: Tensor, worth: Tensor, position: int) -> list[float]:
    """What the score has fallen by at each of `SHARES`, then the mean over all numbers of deleted tokens.

    x (T, D), base (T, D), worth (T,)
    """
    order = [t for t in worth.argsort(descending=True).tolist() if t != position]
    states = x.repeat(len(order) + 1, 1, 1)
    for row, token in enumerate(order, 1):
        states[row:, token] = base[token]
    scores = score(states).double()
    fall = (scores[0] - scores[1:]).tolist()
    at = [fall[max(1, round(share * len(order))) - 1] for share in SHARES]
    return [*at, sum(fall) / len(fall)]
