"""Word problems of finite groups: the product of all elements read so far, at every position.

    s5    all 120 permutations of five things     no shallow circuit solves it; a state that permutes does
    a5    the 60 even ones                        as hard
    z60   addition modulo 60                      commutative: counting does it

Elements are drawn uniformly, so that no product is likelier than another. The split "longer" is twice as long.

Paper: "Why Are Linear RNNs More Parallelizable?" (which recurrences can follow S5).
"""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks.shared.checks import one_of, whole

GROUPS = ("a5", "s5", "z60")


@cache
def elements(group: str) -> list[tuple[int, ...]]:
    """The permutations of a group of them: element e takes place x to elements(group)[e][x]."""
    found = list(permutations(range(5)))
    return found if group == "s5" else [p for p in found if _is_even(p)]


def _is_even(p: tuple[int, ...]) -> bool:
    return sum(p[i] > p[j] for j in range(len(p)) for i in range(j)) % 2 == 0


@cache
def table(group: str) -> Tensor:
    """What first a and then b amounts to: (n, n) int64."""
    if group == "z60":
        return (torch.arange(60)[:, None] + torch.arange(60)) % 60
    p = torch.tensor(elements(group))
    powers = 5 ** torch.arange(5)
    then = p[None].expand(len(p), -1, -1).gather(2, p[:, None].expand(-1, len(p), -1))  # b[a[x]]
    return torch.searchsorted(p.flip(1) @ powers, then.flip(2) @ powers)


class Automata(Task):
    """
    group   s5, a5 or z60
    tokens  elements in a word
    """

    name = "automata"
    summary = "Keep track of the product of the group elements read so far."
    papers = ("linear-rnns-more-parallelizable",)
    splits = ("train", "valid", "test", "longer")

    def __init__(self, group: str = "s5", tokens: int = 32):
        self.group, self.tokens = one_of("group", group, GROUPS), whole("tokens", tokens, 1)
        self.n_inputs = self.n_outputs = len(table(group))

    def batch(self, generator: torch.Generator, size: int, split: Split = "train") -> Batch:
        length = 2 * self.tokens if split == "longer" else self.tokens
        words = torch.randint(self.n_inputs, (size, length), generator=generator, device="cpu")
        products, reach = words.clone(), 1
        while reach < length:  # products of the last 1, 2, 4, ... elements
            products[:, reach:] = table(self.group)[products[:, :-reach], products[:, reach:]]
            reach *= 2
        return Batch(words, products)

    def yardsticks(self) -> dict[str, float]:
        """random: an element; first only: says the element just read, which is the product at the first position."""
        alone = (1 + (self.tokens - 1) / self.n_inputs) / self.tokens
        return {"random": 1 / self.n_inputs, "first only": alone, "oracle": 1.0}
