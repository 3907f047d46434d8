"""What memories with product keys share: the k best of n^2 keys, found by scoring 2n half keys.

Slot a * n + b has the key [K1_a; K2_b], so its score is a sum of two:  q . [K1_a; K2_b] = q1 . K1_a + q2 . K2_b.
A pair among the k best has both halves among the k best of their own list, so the search is exact at the cost of n.

Shapes: tokens (T, D) -> queries (T, H, d_key), each cut into two halves -> scores and slots (T, H, k), best first;
half keys (H, 2, n, d_key / 2); n^2 slots.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from layersmith.contract import require_positive
from layersmith.kernels.gather import best_pairs


def _softmax(scores: Tensor) -> Tensor:
    return scores.softmax(-1)


#: How the scores of the k slots that a head has found become weights.
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": _softmax,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


class ProductKeys(nn.Module):
    """Finds, for each token and head, the k slots of n_keys^2 whose product keys score best against its query.

    normalise   layer-normalise each head's query
    """

    def __init__(self, d_model: int, n_keys: int, heads: int, k: int, d_key: int, normalise: bool = True):
        super().__init__()
        self.k = k
        self.query = nn.Linear(d_model, heads * d_key)
        self.norm = nn.LayerNorm(d_key) if normalise else nn.Identity()
        self.keys = nn.Parameter(torch.empty(heads, 2, n_keys, d_key // 2))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        self.query.reset_parameters()
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.reset_parameters()
        bound = self.keys.shape[-1] ** -0.5
        nn.init.uniform_(self.keys, -bound, bound)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (T, H, k), with gradients, and slots int64 (T, H, k) of tokens (T, D)."""
        heads, _, n_keys, half = self.keys.shape
        query = self.norm(self.query(tokens).unflatten(-1, (heads, 2 * half)))
        halves = query.reshape(-1, 2 * heads, half).transpose(0, 1)
        scores = torch.bmm(halves, self.keys.flatten(0, 1).transpose(1, 2).to(halves.dtype))
        scores = scores.unflatten(0, (heads, 2))
        slots = best_pairs(scores, self.k)
        by_head = slots.transpose(0, 1)
        first = scores[:, 0].gather(-1, by_head // n_keys)
        second = scores[:, 1].gather(-1, by_head % n_keys)
        return (first + second).transpose(0, 1), slots


def require_memory(owner: type, d_model: int, n_keys: int, heads: int, k: int, d_key: int, weights: str) -> None:
    """Raise a clear ValueError unless these make a memory with product keys."""
    require_positive(owner, d_model=d_model, n_keys=n_keys, heads=heads, k=k, d_key=d_key)
    if k > n_keys**2:
        raise ValueError(f"{owner.__name__}: k={k} slots for each head, but n_keys={n_keys} makes only {n_keys**2}.")
    if d_key % 2:
        raise ValueError(f"{owner.__name__}: d_key must be even, because a key is made of two halves, not {d_key}.")
    if weights not in WEIGHTS:
        raise ValueError(f"{owner.__name__}: weights must be one of {', '.join(WEIGHTS)}, not {weights!r}.")


def parameters_read(keys: ProductKeys, tables: list[Tensor], slots: int) -> int:
    """Parameters that one token reads: all of the search, and at most `slots` rows of each table."""
    search = sum(p.numel() for p in keys.parameters())
    return search + sum(min(slots, t.shape[0]) * t.shape[1] for t in tables)
