"""One token through a whole layer in one call: both norms, attention over a cache with room, the gated feed-forward.

    h = x + W_o attend(W_qkv rms(x)),   y = h + W_down silu_gate(W_gu rms(h))         float32 on the CPU, `step.cpp`

It computes what `kernels/rms`, `kernels/cached`, `kernels/gated` and the products of the maps' forms compute one by one
(`kernels/row_form.py`), with the same loops, so the same numbers. While a small model writes one token after another,
the calls between them take longer than they do; here there is one. Its reference are the lines of `block.series`, where
`block.shared.one_token` asks whether it may run. For inference: nothing is differentiated.

Shapes: x (1, 1, D), norms (weight, bias) of (D,), maps as `row_form` says, table, keys and values as for `attend_one`
-> y (1, 1, D); the token's key and value are written into keys and values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native
from layersmith.kernels.cached import Place
from layersmith.kernels.row_form import RowForm

library.define(
    "layersmith::series_step",
    "(Tensor x, Tensor?[] norm, Tensor?[] qkv, Tensor?[] o, Tensor?[] ffn_norm, Tensor?[] gate_up, Tensor?[] down, "
    "int[] forms, float[] eps, bool[2] offset, Tensor? table, int position, Tensor(a!) keys, Tensor(b!) values, "
    "int slots, int heads, float scale, bool interleaved) -> Tensor",
)
_series_step = torch.ops.layersmith.series_step.default

#: The weight and the bias of a norm.
Norm = tuple[Tensor, Tensor | None]
Shape = tuple[int, ...]


def serves(x: Tensor, norms: tuple[Norm, Norm], maps: Sequence[RowForm]) -> bool:
    """True when the kernel is there and every float tensor is one it takes; ask `cached.serves` too."""
    given = [tensor for norm in norms for tensor in norm] + [tensor for _, held in maps for tensor in held]
    return native.serves(x, *(t for t in given if t is not None and t.is_floating_point()))


def series_step(
    x: Tensor,
    norms: tuple[Norm, Norm],
    maps: Sequence[RowForm],
    eps: tuple[float, float],
    offset: tuple[bool, bool],
    place: Place,
) -> Tensor:
    """y of the token x at its place in the cache, as x; writes into keys and values. Ask `serves` first.

    norms        (weight, bias) of the norm before the attention and of the one before the feed-forward
    maps         qkv, o, gate_up and down
    eps, offset  of both norms
    """
    (qkv, o, gate_up, down), forms = (held for _, held in maps), tuple(form for form, _ in maps)
    y: Tensor = _series_step(
        x,
        norms[0],
        qkv,
        o,
        norms[1],
        gate_up,
        down=down,
        forms=forms,
        eps=eps,
        offset=offset,
        table=place.table,
        position=place.position,
        keys=place.keys,
        values=place.values,
        slots=place.slots,
        heads=place.heads,
        scale=place.scale,
        interleaved=place.interleaved,
    )
    return y


@library.register_fake("layersmith::series_step")
def _(x: Tensor, *args: object) -> Tensor:
    return torch.empty_like(x)


@register_flop_formula(torch.ops.layersmith.series_step)
def _flops(
    x: Shape,
    norm: Sequence[Shape],
    qkv: Sequence[Shape],
    o: Sequence[Shape],
    ffn_norm: Sequence[Shape],
    gate_up: Sequence[Shape],
    down: Sequence[Shape],
    forms: Sequence[int],
    eps: Sequence[float],
    offset: Sequence[bool],
    table: Shape | None,
    position: int,
    keys: Shape,
    values: Shape,
    slots: int,
    heads: int,
    *args: object,
    **kwargs: object,
) -> int:
    """Those of the four products and of the attention, as the single operations count them."""
    width, inner, hidden = x[-1], heads * keys[3], gate_up[0][0] // 2
    maps = qkv[0][0] * width + inner * width + 2 * hidden * width + hidden * width
    return 2 * maps + 4 * inner * (slots + 1)
