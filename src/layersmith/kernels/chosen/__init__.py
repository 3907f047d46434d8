"""Fast paths for a few tokens that each use a few rows of large tables (`chosen.cpp`, float32 on the CPU).

For `ffn.topk_glu` and `ffn.topk_mlp`:

    if serves(x, hidden, up, down): y = chosen_rows(x, hidden, chosen, up, down)

    y[n] = sum over k of hidden[n, k] (up[i] . x[n]) down[i],   i = chosen[n, k];   without `up` the bracket is 1

x (N, D), hidden (N, K), chosen int64 (N, K), up and down (rows, D). Only chosen rows are read, several side by
side, and none is copied. For inference: a call that must be differentiated is the reference's.

For `ffn.experts`, whose own operator is the differentiable one and calls this one too:

    if serves(rows, weight): y = grouped_linear(rows, weight, counts)
"""

from __future__ import annotations

import torch
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

library.define("layersmith::chosen_rows", "(Tensor x, Tensor hidden, Tensor chosen, Tensor? up, Tensor down) -> Tensor")

library.define("layersmith::grouped_linear_cpu", "(Tensor rows, Tensor weight, Tensor counts) -> Tensor")


def serves(*tensors: Tensor) -> bool:
    """True when the kernel takes these tensors and nothing is to be differentiated."""
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return not wanted and native.serves(*tensors)


def chosen_rows(x: Tensor, hidden: Tensor, chosen: Tensor, up: Tensor | None, down: Tensor) -> Tensor:
    """The sum above, (N, D). Ask `serves` first."""
    y: Tensor = torch.ops.layersmith.chosen_rows(x, hidden, chosen, up, down)
    return y


def grouped_linear(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """rows (M, d_in) sorted by expert, weight (E, d_out, d_in), counts (E,) -> (M, d_out). Ask `serves` first."""
    y: Tensor = torch.ops.layersmith.grouped_linear_cpu(rows, weight, counts)
    return y


@library.register_fake("layersmith::chosen_rows")
def _(x: Tensor, hidden: Tensor, chosen: Tensor, up: Tensor | None, down: Tensor) -> Tensor:
    return hidden.new_empty(hidden.shape[0], down.shape[1])


@library.register_fake("layersmith::grouped_linear_cpu")
def _(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[1])


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


@register_flop_formula(torch.ops.layersmith.grouped_linear_cpu)
def _grouped_flops(rows: tuple[int, ...], weight: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * rows[0] * weight[1] * weight[2]
