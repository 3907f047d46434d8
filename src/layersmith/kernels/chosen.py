"""Fast path for a few tokens that each use a few rows of two tables: see `ffn.topk_glu` and `ffn.topk_mlp`.

    if serves(x, hidden, up, down): y = chosen_rows(x, hidden, chosen, up, down)

    y[n] = sum over k of hidden[n, k] (up[i] . x[n]) down[i],   i = chosen[n, k];   without `up` the bracket is 1

x (N, D), hidden (N, K), chosen int64 (N, K), up and down (rows, D). Only chosen rows are read, several side by
side, and none is copied. For inference: a call that must be differentiated is the reference's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

torch.library.define(
    "layersmith::chosen_rows", "(Tensor x, Tensor hidden, Tensor chosen, Tensor? up, Tensor down) -> Tensor"
)


def serves(*tensors: Tensor) -> bool:
    """True when the kernel takes these tensors and nothing is to be differentiated."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not wanted and native.serves(*tensors)


def chosen_rows(x: Tensor, hidden: Tensor, chosen: Tensor, up: Tensor | None, down: Tensor) -> Tensor:
    """The sum above, (N, D). Ask `serves` first."""
    y: Tensor = torch.ops.layersmith.chosen_rows(x, hidden, chosen, up, down)
    return y


@torch.library.register_fake("layersmith::chosen_rows")
def _(x: Tensor, hidden: Tensor, chosen: Tensor, up: Tensor | None, down: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape[0], down.shape[1])


@register_flop_formula(torch.ops.layersmith.chosen_rows)
def _flops(
    x: tuple[int, ...],
    hidden: tuple[int, ...],
    chosen: tuple[int, ...],
    up: tuple[int, ...] | None,
    down: tuple[int, ...],
    **kwargs: object,
) -> int:
    return (2 if up is None else 4) * chosen[0] * chosen[1] * down[1]
