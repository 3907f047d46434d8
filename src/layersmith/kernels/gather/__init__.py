"""Sparse reads of large tables: products with chosen rows, weighted sums of chosen rows, and the best pairs of scores.

    rows_dot(x, T, i)[n, k]    = T[i[n, k]] . x[n]
    rows_sum(w, T, i)[n]       = sum_k w[n, k] T[i[n, k]]
    rows_scatter(w, x, i)[e]   = sum over pairs with i[n, k] = e of w[n, k] x[n]        (the gradient of both to T)
    best_pairs(s, k)           = the k pairs (a, b) with the largest s[0, a] + s[1, b], numbered a * n + b

Shapes: x (N, D), table T (E, D), index i (N, K) int64, weight w (N, K); scores s (H, 2, N, n) -> pairs (N, H, k).

All are PyTorch custom operators, so that torch.compile, the meta device and the FLOP counter see one node of known
shape. Sums are torch's own `embedding_bag`. The others have a compiled kernel for float32 on the CPU (`gather.cpp`) and
a plain PyTorch reference for everything else, which gathers rows for as many tokens at a time as fit in `CHUNK`
numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

#: Gathered numbers held at once by the references (256 MiB in float32).
CHUNK = 1 << 26


def _chunks(index: Tensor, width: int) -> Iterator[slice]:
    step = max(1, CHUNK // max(1, index.shape[1] * width))
    return (slice(start, start + step) for start in range(0, index.shape[0], step))


def _has_rows(index: Tensor) -> bool:
    return index.numel() > 0


@library.custom_op("layersmith::rows_dot", mutates_args=())
def _rows_dot(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    x, index = x.contiguous(), index.contiguous()
    if _has_rows(index) and native.serves(x, table):
        return torch.ops.layersmith.rows_dot_cpu(x, table, index)
    out = x.new_empty(index.shape)
    for part in _chunks(index, table.shape[1]):
        out[part] = torch.bmm(table[index[part]].to(x.dtype), x[part, :, None])[..., 0]
    return out


@library.custom_op("layersmith::rows_sum", mutates_args=())
def _rows_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    if not _has_rows(index):
        return weight.new_zeros(index.shape[0], table.shape[1])
    # torch's own is the fastest there is on a CPU; it wants one dtype for both.
    return F.embedding_bag(index, table, per_sample_weights=weight.to(table.dtype), mode="sum").to(weight.dtype)


@library.custom_op("layersmith::rows_scatter", mutates_args=())
def _rows_scatter(weight: Tensor, x: Tensor, index: Tensor, rows: int) -> Tensor:
    weight, x, index = weight.contiguous(), x.contiguous(), index.contiguous()
    if _has_rows(index) and native.serves(weight, x):
        return torch.ops.layersmith.rows_scatter_cpu(weight, x, index, rows)
    out = x.new_zeros(rows, x.shape[1])
    for part in _chunks(index, x.shape[1]):
        out.index_add_(0, index[part].flatten(), (weight[part, :, None] * x[part, None]).flatten(0, 1))
    return out


@library.custom_op("layersmith::best_pairs", mutates_args=())
def _best_pairs(scores: Tensor, k: int) -> Tensor:
    n = scores.shape[-1]
    scores = scores.contiguous()
    if scores.numel() and native.serves(scores):
        return torch.ops.layersmith.best_pairs_cpu(scores, k)
    best, where = scores.topk(min(k, n), dim=-1)
    sums = (best[:, 0, :, :, None] + best[:, 1, :, None, :]).flatten(-2)
    pairs = (where[:, 0, :, :, None] * n + where[:, 1, :, None, :]).flatten(-2)
    return pairs.gather(-1, sums.topk(k, dim=-1).indices).transpose(0, 1).contiguous()


@_rows_dot.register_fake
def _(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    return x.new_empty(index.shape)


@_rows_sum.register_fake
def _(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    return weight.new_empty(index.shape[0], table.shape[1])


@_rows_scatter.register_fake
def _(weight: Tensor, x: Tensor, index: Tensor, rows: int) -> Tensor:
    return x.new_empty(rows, x.shape[1])


@_best_pairs.register_fake
def _(scores: Tensor, k: int) -> Tensor:
    return scores.new_empty(scores.shape[2], scores.shape[0], k, dtype=torch.long)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    x, table, index = ctx.saved_tensors
    need_x, need_table, _ = ctx.needs_input_grad
    to_x = _rows_sum(grad, table, index) if need_x else None
    to_table = _rows_scatter(grad, x, index, table.shape[0]).to(table.dtype) if need_table else None
    return to_x, to_table, None


def _sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    weight, table, index = ctx.saved_tensors
    need_weight, need_table, _ = ctx.needs_input_grad
    to_weight = _rows_dot(grad, table, index) if need_weight else None
    to_table = _rows_scatter(weight, grad, index, table.shape[0]).to(table.dtype) if need_table else None
    return to_weight, to_table, None


_rows_dot.register_autograd(_dot_backward, setup_context=_save)
_rows_sum.register_autograd(_sum_backward, setup_context=_save)


@register_flop_formula([torch.ops.layersmith.rows_dot, torch.ops.layersmith.rows_sum])
def _read_flops(x: tuple[int, ...], table: tuple[int, ...], index: tuple[int, ...], *args: object, **kw: object) -> int:
    return 2 * index[0] * index[1] * table[1]


@register_flop_formula(torch.ops.layersmith.rows_scatter)
def _scatter_flops(weight: tuple[int, ...], x: tuple[int, ...], *args: object, **kw: object) -> int:
    return 2 * weight[0] * weight[1] * x[1]


def rows_dot(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """(N, K): the product of each token's vector x (N, D) with each of its chosen rows of the table (E, D)."""
    return _rows_dot(x, table, index)


def rows_sum(weight: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """(N, D): each token's chosen rows of the table (E, D), summed with its weights (N, K)."""
    return _rows_sum(weight, table, index)


def best_pairs(scores: Tensor, k: int) -> Tensor:
    """int64 (N, H, k): of all n^2 sums s[h, 0, t, a] + s[h, 1, t, b], the k largest, as a * n + b. No gradient.

    Exact for k <= n^2: each half of a pair among the k best is among the k best of its own list.
    """
    return _best_pairs(scores.detach(), k)
