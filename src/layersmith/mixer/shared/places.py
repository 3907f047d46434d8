"""Which keys a query may see, as a pattern of their places.

    window    |t - s| < size
    block     t // size = s // size
    shifted   the same with every border half a block earlier
    dilated   (t - s) % dilation = 0 and |t - s| < size * dilation
    strided   |t - s| <= size or (t - s) % size = 0
    fixed     t // size = s // size or s % size >= size - columns

each with s <= t where attention is causal. With `first`, all tokens also see the first few (attention sinks, global
tokens), which, where attention is not causal, see all in turn. The place of a token counts the real tokens before it.

Papers: window and global tokens: Beltagy et al. 2020, arXiv 2004.05150; strided and fixed: Child et al. 2019, arXiv
1904.10509; shifted: Liu et al. 2021, "Swin Transformer".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

NAMES = ("window", "block", "shifted", "dilated", "strided", "fixed")


@dataclass(frozen=True)
class Pattern:
    """A pattern of places with its sizes, as in the table above; `causal`: nothing later is seen."""

    name: str
    size: int
    causal: bool = True
    first: int = 0
    dilation: int = 1
    columns: int = 1

    def sees(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether tokens at these places (broadcast against each other) see each other, as bool."""
        apart = (query - key).abs()
        if self.name == "window":
            seen = apart < self.size
        elif self.name == "dilated":
            seen = (apart < self.size * self.dilation) & (apart % self.dilation == 0)
        elif self.name == "strided":
            seen = (apart <= self.size) | (apart % self.size == 0)
        else:
            seen = (query + self._early) // self.size == (key + self._early) // self.size
            if self.name == "fixed":
                seen = seen | (key % self.size >= self.size - self.columns)
        if self.first:
            seen = seen | (key < self.first)
            if not self.causal:
                seen = seen | (query < self.first)
        return seen & (query >= key) if self.causal else seen

    def near(self, start: int, stop: int, end: int) -> tuple[int, int]:
        """From which to before which of `end` places the queries at start ... stop - 1 see neighbours of theirs."""
        if self.first > start and not self.causal:
            return 0, end
        if self.name == "window":
            low, high = start - self.size + 1, stop + self.size - 1
        else:
            low = (start + self._early) // self.size * self.size - self._early
            high = -(-(stop + self._early) // self.size) * self.size - self._early
        return max(low, 0), stop if self.causal else min(high, end)

    def far(self, low: int, high: int, end: int, device: torch.device) -> Tensor | None:
        """The places outside low ... high - 1 that are seen from anywhere, in order; None where there are none."""
        if self.first and low > 0:
            return torch.arange(min(self.first, low), device=device)
        if self.name != "fixed":
            return None
        blocks = [*range(0, low, self.size), *range(high, end if not self.causal else high, self.size)]
        columns = [s for b in blocks for s in range(b + self.size - self.columns, min(b + self.size, end))]
        return torch.tensor(columns, device=device) if columns else None

    def droppable(self, tokens: int) -> int:
        """How many of `tokens`, behind the first ones, no later one will see, as far as whole periods of them go."""
        past = tokens - self.first
        if self.name == "window":
            return max(past - (self.size - 1), 0)
        if self.name == "dilated":
            return max(past - (self.size - 1) * self.dilation, 0) // self.dilation * self.dilation
        if self.name in ("block", "shifted"):
            begun = (tokens + self._early) // self.size * self.size - self._early  # the present block begins here
            # First tokens stay at least size - 1 away, where a bias by distance does not change any more.
            kept = self.first + self.size - 2 if self.first else 0
            return max(begun - kept, 0) // self.size * self.size
        return 0

    @property
    def period(self) -> int:
        """By how many places the pattern can be moved and stays as it is, its first tokens aside."""
        return 1 if self.name == "window" else self.size

    @property
    def forgets(self) -> bool:
        """Whether there are tokens that no later one sees."""
        return self.name not in ("strided", "fixed")

    @property
    def _early(self) -> int:
        return self.size // 2 if self.name == "shifted" else 0
