"""Maps over token positions, shared by all channels: what mixers made of MLPs mix tokens with.

    one matrix    y_t = sum_s W[t, s] z_s + b_t                          `PositionMap`
    an MLP        y = W_2 gelu(W_1 z + b_1) + b_2 over positions         `TokenMLP`

They hold weights for `length` positions and refuse longer sequences; a shorter one reads and writes the first positions
only, as if zeros followed. The position of a token is the number of real tokens before it, so padding on either side or
in between changes nothing.

Causal: W[t, s] = 0 for s > t. The hidden units of an MLP get places among the positions, in order and evenly spaced; a
unit reads tokens up to its place and is read by tokens from its place on. What was published is not causal.

Shapes: z (B, T, C) -> y (B, T, C); W (G, N, N) with N = length and one matrix for each of G groups of channels;
W_1 (H, N), W_2 (N, H).
State: of a matrix, the inputs z (B, S, C) so far and real (B, S) bool once a mask has been given; of an MLP, the sums
W_1 z (B, H, C) so far, in at least float32, and seen (B,) int64, the real tokens.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import State, require_positive
from layersmith.mixer.shared.chunked import full_precision, precise
from layersmith.mixer.shared.rope import token_positions, tokens_seen


class PositionMap(nn.Module):
    """One matrix over positions for each of `groups` groups of channels.

    toeplitz    W[t, s] = w[t - s], so that only distances count
    """

    def __init__(self, length: int, causal: bool, groups: int = 1, toeplitz: bool = False):
        super().__init__()
        require_positive(type(self), length=length, groups=groups)
        self.length, self.groups, self.causal, self.toeplitz = length, groups, causal, toeplitz
        shape = (groups, length if causal else 2 * length - 1) if toeplitz else (groups, length, length)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-(length**-0.5), length**-0.5))
        self.bias = nn.Parameter(torch.zeros(groups, length))

    def matrix(self) -> Tensor:
        """W (G, N, N), what a causal one must not read included: `forward` cuts that off."""
        if not self.toeplitz:
            return self.weight
        backwards = self.weight.flip(-1)  # row t is w[t], w[t - 1], ...: a window of w read backwards
        if self.causal:
            backwards = F.pad(backwards, (0, self.length - 1))
        return backwards.unfold(-1, self.length, 1).flip(-2)

    def forward(self, z: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State | None]:
        z, real = _history(z, state, mask)
        so_far = z.shape[1]
        first = 0 if state is None else state["z"].shape[1]
        if real is None:
            _require_room(self, so_far, None)
            rows = self.matrix()[:, first:so_far, :so_far]
            rows = rows.tril(first) if self.causal else rows
            y = torch.einsum("gts,bsgc->btgc", rows, z.unflatten(2, (self.groups, -1)))
            bias = self.bias[:, first:so_far].mT[None]
        else:
            _require_room(self, so_far, real.sum(1))
            place = (real.long().cumsum(1) - real.long()).clamp_max(self.length - 1)
            to, source = place[:, first:, None], place[:, None, :]
            rows = self.matrix()[:, to, source]
            rows = rows * (source <= to) if self.causal else rows
            y = torch.einsum("gbts,bsgc->btgc", rows, z.unflatten(2, (self.groups, -1)))
            bias = self.bias.mT[place[:, first:]]
        y = (y + bias[..., None].to(y.dtype)).flatten(2)
        if not self.causal:
            return y, None
        return y, {"z": z} if real is None else {"z": z, "real": real}


class TokenMLP(nn.Module):
    """A two-layer GELU MLP over positions, the same for every channel; `hidden` is the number of its hidden units."""

    def __init__(self, length: int, hidden: int, causal: bool):
        super().__init__()
        require_positive(type(self), length=length, token_hidden=hidden)
        self.length, self.causal = length, causal
        self.up = nn.Parameter(torch.empty(hidden, length).uniform_(-(length**-0.5), length**-0.5))
        self.up_bias = nn.Parameter(torch.zeros(hidden))
        self.down = nn.Parameter(torch.empty(length, hidden).uniform_(-(hidden**-0.5), hidden**-0.5))
        self.down_bias = nn.Parameter(torch.zeros(length))

    def forward(self, z: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, State | None]:
        seen = None if state is None else state["seen"]
        now = tokens_seen(z, mask, seen)
        if seen is None and mask is None:
            _require_room(self, z.shape[1], None)
            at = torch.arange(z.shape[1], device=z.device)
            up, down = self.up[:, : z.shape[1]].mT, self.down[: z.shape[1]]  # (T, H)
        else:
            _require_room(self, self.length + 1, now)
            at = token_positions(z, mask, seen).clamp_max(self.length - 1).expand(z.shape[:2])
            up, down = self.up.mT[at], self.down[at]  # (B, T, H)
        if self.causal:
            place = self._places(z.device)
            up, down = up * (at[..., None] <= place), down * (place <= at[..., None])
        real = z if mask is None else z.masked_fill(~mask[..., None], 0.0)
        with full_precision(z):
            sums = precise(up).mT @ precise(real)
            sums = sums if state is None else sums + state["sums"]
        hidden = F.gelu(sums + self.up_bias[:, None]).to(z.dtype)
        y = down.to(hidden.dtype) @ hidden
        return y + self.down_bias[at][..., None].to(y.dtype), {"sums": sums, "seen": now} if self.causal else None

    def _places(self, device: torch.device) -> Tensor:
        """(H,): the position of each hidden unit."""
        hidden = len(self.up)
        return ((torch.arange(hidden, device=device) + 1) * self.length + hidden - 1) // hidden - 1


def _history(z: Tensor, state: State | None, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The inputs so far with zeros at padding, and which of them are real; None: all are."""
    if mask is not None:
        z = z.masked_fill(~mask[..., None], 0.0)
    if state is None:
        return z, mask
    before = state["z"]
    if mask is None and "real" not in state:
        return torch.cat((before, z), 1), None
    past = state["real"] if "real" in state else before.new_ones(before.shape[:2], dtype=torch.bool)
    present = z.new_ones(z.shape[:2], dtype=torch.bool) if mask is None else mask
    return torch.cat((before, z), 1), torch.cat((past, present), 1)


def _require_room(owner: PositionMap | TokenMLP, tokens: int, real: Tensor | None) -> None:
    """ValueError when there are more tokens than positions; `real` (B,) counts those that are not padding."""
    if tokens <= owner.length:
        return
    if real is None or (not real.is_meta and real.numel() and int(real.max()) > owner.length):
        found = tokens if real is None else int(real.max())
        raise ValueError(
            f"This mixer has weights for length={owner.length} positions and cannot take {found} tokens: "
            f"cut the input, or build it with a larger length."
        )
