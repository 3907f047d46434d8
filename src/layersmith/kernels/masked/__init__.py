"""A fast path for a few tokens and one matrix under several bit masks (`masked.cpp`, float32 on the CPU).

For `ffn.mglu` with packed masks:

    if serves(x, weight): total, part = masked_products(x, weight, masks)

    total[n, j] = sum_d W[j, d] x[n, d],   part[n, i, j] = sum over the d with M[i, j, d] = 1 of W[j, d] x[n, d]

x (N, D), weight (rows, D), masks uint8 (n_masks, rows, ceil(D / 8)), element d in bit d % 8 of byte d / 8. The matrix
is read once whatever the number of masks, and no masked copy of it is made. For inference: a call that must be
differentiated is the reference's, and so is one with many tokens, which matrix products serve better.
"""

from __future__ import annotations

import torch
from torch import Tensor, library
from torch.utils.flop_counter import register_flop_formula

from layersmith.kernels import native

#: Above this many tokens the masked copies are made faster than the masks are applied to each token.
FEW = 8

library.define("layersmith::masked_products", "(Tensor x, Tensor weight, Tensor masks) -> (Tensor, Tensor)")


def serves(x: Tensor, weight: Tensor) -> bool:
    """True when the kernel takes x (N, D) and the weight, and nothing is to be differentiated."""
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return not wanted and 0 < len(x) <= FEW and native.serves(x, weight)


def masked_products(x: Tensor, weight: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """total (N, rows) and part (N, n_masks, rows). Ask `serves` first."""
    total, part = torch.ops.layersmith.masked_products(x, weight, masks)
    return total, part


@library.register_fake("layersmith::masked_products")
def _(x: Tensor, weight: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    rows = weight.shape[0]
    return x.new_empty(len(x), rows), x.new_empty(len(x), len(masks), rows)


@register_flop_formula(torch.ops.layersmith.masked_products)
def _flops(x: tuple[int, ...], weight: tuple[int, ...], masks: tuple[int, ...], **kwargs: object) -> int:
    return 2 * x[0] * weight[0] * weight[1] * (1 + masks[0])
