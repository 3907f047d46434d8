"""Binary trees of neurons, computing only the neurons on the way down: compiled, for the CPU, without gradients.

    if tree.serves(x, up, bias, down):
        y = torch.ops.layersmith.tree_mlp(x, up, bias, down, "gelu")    # sum over the way of act(logit) * down[row]
        logits, rows = torch.ops.layersmith.tree_descend(x, up, bias)   # the way alone

`tree.cpp` computes them; here are their shapes and their FLOPs. A complete binary tree of `levels` levels has
2**levels - 1 nodes; the children of node n are 2n + 1 (logit <= 0) and 2n + 2 (logit > 0).

Shapes: x (N, D), up and down (P, nodes, D), bias (P, nodes) -> y (N, D); logits, rows (N, P, levels), where
row = tree * nodes + node.
"""

from __future__ import annotations

import torch
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

#: Activations that `tree_mlp` has compiled in.
ACTIVATIONS = ("identity", "relu", "relu2", "silu", "gelu", "gelu_tanh")

# Declared here and not in C++, so that shapes and FLOPs are known whether or not the kernels are built.
library.define("layersmith::tree_descend", "(Tensor x, Tensor weight, Tensor bias) -> (Tensor, Tensor)")
library.define("layersmith::tree_mlp", "(Tensor x, Tensor up, Tensor bias, Tensor down, str act) -> Tensor")


def levels_of(nodes: int) -> int:
    """How many levels a complete binary tree of that many nodes has."""
    return nodes.bit_length()


def serves(*tensors: Tensor) -> bool:
    """Whether the compiled kernels take these tensors and no gradient is wanted."""
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return not wanted and native.serves(*tensors)


@library.register_fake("layersmith::tree_descend")
def _descend(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    shape = (x.shape[0], weight.shape[0], levels_of(weight.shape[1]))
    return x.new_empty(shape), x.new_empty(shape, dtype=torch.long)


@library.register_fake("layersmith::tree_mlp")
def _mlp(x: Tensor, up: Tensor, bias: Tensor, down: Tensor, act: str) -> Tensor:
    return torch.empty_like(x)


@register_flop_formula(torch.ops.layersmith.tree_descend)
def _descend_flops(x: tuple[int, ...], weight: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * x[0] * weight[0] * levels_of(weight[1]) * weight[2]


@register_flop_formula(torch.ops.layersmith.tree_mlp)
def _mlp_flops(x: tuple[int, ...], up: tuple[int, ...], *args: object, **kwargs: object) -> int:
    return 2 * _descend_flops(x, up)
