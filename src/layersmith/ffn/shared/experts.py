"""What mixtures of experts share: send each token to its experts, multiply every expert's tokens by its own matrix.

`grouped_linear` is one linear map per expert over rows sorted by expert; an expert without tokens costs nothing, in
training and at inference. It is a PyTorch custom operator, so that `torch.compile(fullgraph=True)`, the meta device
and the FLOP counter see one node of known shape instead of a loop whose sizes depend on the data.

Shapes: N tokens, K experts per token, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, library, nn
from torch.utils.flop_counter import register_flop_formula

from layersmith.ffn.shared.activations import activation
from layersmith.kernels import chosen as kernel


@library.custom_op("layersmith::grouped_linear", mutates_args=())
def _grouped_linear(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    if kernel.serves(rows, weight):
        return kernel.grouped_linear(rows, weight, counts)
    out = rows.new_empty(rows.shape[0], weight.shape[1])
    start = 0
    for expert, count in enumerate(counts.tolist()):
        if count:
            torch.mm(rows[start : start + count], weight[expert].T, out=out[start : start + count])
        start += count
    return out


@library.custom_op("layersmith::grouped_outer", mutates_args=())
def _grouped_outer(left: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    out = left.new_zeros(counts.shape[0], left.shape[1], right.shape[1])
    start = 0
    for expert, count in enumerate(counts.tolist()):
        if count:
            torch.mm(left[start : start + count].T, right[start : start + count], out=out[expert])
        start += count
    return out


@_grouped_linear.register_fake
def _(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], weight.shape[1])


@_grouped_outer.register_fake
def _(left: Tensor, right: Tensor, counts: Tensor) -> Tensor:
    return left.new_empty(counts.shape[0], left.shape[1], right.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
    rows, weight, counts = ctx.saved_tensors
    return _grouped_linear(grad, weight.transpose(1, 2), counts), _grouped_outer(grad, rows, counts), None


_grouped_linear.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.layersmith.grouped_linear)
def _linear_flops(rows: tuple[int, ...], weight: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * rows[0] * weight[1] * weight[2]


@register_flop_formula(torch.ops.layersmith.grouped_outer)
def _outer_flops(left: tuple[int, ...], right: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * left[0] * left[1] * right[1]


def grouped_linear(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """rows (M, d_in) sorted by expert, weight (E, d_out, d_in), counts (E,) rows of each expert -> (M, d_out)."""
    weight = weight.to(rows.dtype)
    if kernel.serves(rows, weight):  # in inference, without the wrapping that differentiation needs
        return kernel.grouped_linear(rows, weight, counts)
    return _grouped_linear(rows, weight, counts)


def mix_experts(
    x: Tensor, chosen: Tensor, weight: Tensor, n_experts: int, run: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """sum over k of weight[t, k] * expert chosen[t, k] applied to x[t], computing only the chosen pairs.

    x (N, D), chosen int (N, K), weight (N, K); run(rows (N * K, D), counts (E,)) -> (N * K, D) applies the experts to
    rows sorted by expert. Returns (N, D).
    """
    if x.shape[0] == 1:
        return _mix_one(x, chosen, weight, n_experts, run)
    flat = chosen.flatten()
    order = flat.argsort(stable=True)
    counts = torch.zeros(n_experts, dtype=torch.long, device=x.device).scatter_add(0, flat, torch.ones_like(flat))
    rows = run(x[order // chosen.shape[1]], counts)
    # Back to token order by a gather, not an index_add, whose order of summation is undefined on CUDA.
    rows = rows[order.argsort()].unflatten(0, chosen.shape)
    return (rows * weight.to(rows.dtype)[..., None]).sum(1)


def _mix_one(
    x: Tensor, chosen: Tensor, weight: Tensor, n_experts: int, run: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """The same for one token, where sorting its experts is all there is to sort: decoding is made of such calls."""
    experts, order = chosen[0].sort()
    counts = torch.zeros(n_experts, dtype=torch.long, device=x.device).scatter_(0, experts, 1)
    rows = run(x.expand(chosen.shape[1], -1).contiguous(), counts)
    return (rows * weight[0, order, None].to(rows.dtype)).sum(0, keepdim=True)


class Experts(nn.Module):
    """E feed-forwards of one shape without biases, plain or gated: up, gate (E, d_expert, D), down (E, D, d_expert)."""

    def __init__(self, d_model: int, d_expert: int, n_experts: int, act: str, gated: bool):
        super().__init__()
        self.act = activation(act)
        self.up = nn.Parameter(torch.empty(n_experts, d_expert, d_model))
        self.gate = nn.Parameter(torch.empty(n_experts, d_expert, d_model)) if gated else None
        self.down = nn.Parameter(torch.empty(n_experts, d_model, d_expert))

    def forward(self, rows: Tensor, counts: Tensor) -> Tensor:
        """rows (M, D) sorted by expert, counts (E,) -> (M, D)."""
        return grouped_linear(self.hidden(rows, counts), self.down, counts)

    def hidden(self, rows: Tensor, counts: Tensor) -> Tensor:
        """What enters the down projections: (M, d_expert)."""
        up = grouped_linear(rows, self.up, counts)
        return self.act(up) if self.gate is None else self.act(grouped_linear(rows, self.gate, counts)) * up
