"""One new token attends over a cache that has room for it: rotation, storing and attention in one pass (float32, CPU).

    q, k, v   = qkv                                      one token, heads one after another
    q, k      = turn(q), turn(k)                         by the row of its position (`mixer/shared/turning.py`)
    K[s], V[s] = k, v                                    behind the s tokens that are there
    y_h       = sum_t softmax_t(scale q_h . K[g, t]) V[g, t]      over all s + 1, g the key-value head of head h

In torch these are two dozen small operations, which while one token after another is written take longer than what they
compute. Whether it may run is asked by `serves`; the operations themselves, which are its reference, stand in
`mixer.fused_attention`. For inference only: nothing is differentiated.

Shapes: qkv (1, 1, (H + 2 H_kv) head_dim), table (positions, 2, channels that turn) or None,
keys and values (1, H_kv, room, head_dim), of which the first s are taken -> y (1, 1, H head_dim).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

library.define(
    "layersmith::attend_one",
    "(Tensor qkv, Tensor? table, int position, Tensor(a!) keys, Tensor(b!) values, int slots, int heads, float scale, "
    "bool interleaved) -> Tensor",
)
_attend_one = torch.ops.layersmith.attend_one.default


def serves(x: Tensor, keys: Tensor, values: Tensor) -> bool:
    """True when the kernel is there and takes one token x (1, 1, D) and these rooms, and nothing is differentiated."""
    return x.shape[:2] == (1, 1) and x.dtype == torch.float32 and native.inferring() and native.serves(keys, values)


class Place(NamedTuple):
    """Where one token stands, and how its heads attend.

    table        angles by positions, None where nothing turns
    position     the token's
    keys, values the rooms
    slots        how many tokens are in them already
    heads        query heads
    scale        factor on the scores
    interleaved  pairs of neighbours turn together, else halves
    """

    table: Tensor | None
    position: int
    keys: Tensor
    values: Tensor
    slots: int
    heads: int
    scale: float
    interleaved: bool


def attend_one(qkv: Tensor, place: Place) -> Tensor:
    """y of the token at that place, (1, 1, H head_dim); writes into keys and values. Ask `serves` first."""
    y: Tensor = _attend_one(qkv, *place)
    return y


@library.register_fake("layersmith::attend_one")
def _(
    qkv: Tensor,
    table: Tensor | None,
    position: int,
    keys: Tensor,
    values: Tensor,
    slots: int,
    heads: int,
    scale: float,
    interleaved: bool,
) -> Tensor:
    return qkv.new_empty(1, 1, heads * keys.shape[3])


@register_flop_formula(torch.ops.layersmith.attend_one)
def _flops(
    qkv: tuple[int, ...],
    table: tuple[int, ...] | None,
    position: int,
    keys: tuple[int, ...],
    values: tuple[int, ...],
    slots: int,
    heads: int,
    *args: object,
    **kwargs: object,
) -> int:
    return 4 * heads * (slots + 1) * keys[3]
