"""Quantize column by column, letting the columns still to come make up for the error of those already rounded.

For W (d_out, d_in) with inputs X: H = X^T X + lambda I, U the upper Cholesky factor of H^-1. For i = 1 .. d_in:
    q_i = nearest grid point of w_i,   e = (w_i - q_i) / U_ii,   W[:, j] -= e U_ij for j > i.
Paper: GPTQ, arXiv 2210.17323.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.quantized import QuantizedLinear, rtn_grid
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.methods.quantize.rtn import group_size
from layersmith.refitting.view import SublayerView


class GPTQ(Method):
    name = "gptq"
    kinds = ("ffn", "mixer")
    papers = ("2210.17323",)
    builds = ("quantized",)
    default = True
    saves = ("bytes",)
    requires = "weight matrices"
    statistics = ("grams",)
    when_it_pays = "Bytes at 4 and 3 bit, where plain rounding hurts; it is not faster."
    differs = (
        "Inputs come from the unquantized prefix (each candidate is built on its own); updates are not blocked, "
        "because one matrix product per column is fast enough at the sizes a CPU refits; groups have at most 64 inputs "
        "(there whole rows unless asked), and weights of inputs that never fire stay what they are (there they become "
        "0)."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.linears() else "it has no weight matrices"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"bits": 4}, {"bits": 3}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        replacement: Replacement = []
        for path, module in view.used_linears().items():
            weight, bias = weight_and_bias(module)
            group = group_size(weight.shape[1])
            codes, scale, zero = gptq(weight, view.grams[path], settings["bits"], group)
            part = QuantizedLinear.from_codes(codes, scale, zero, settings["bits"], bias)
            replacement.append((Edit(path, part.spec(), {}), part))
        return replacement


def gptq(weight: Tensor, gram: Tensor, bits: int, group: int, damp: float = 0.01) -> tuple[Tensor, Tensor, Tensor]:
    """Codes (d_out, d_in), and scale and zero (d_out, d_in / group) of the grid they stand on.

    gram  X^T X up to a factor, (d_in, d_in). A diagonal gram gives round-to-nearest.
    """
    w = weight.double().clone()
    hessian = gram.double().clone()
    dead = hessian.diagonal() <= 0  # inputs that never fire: their weights do not matter, rounding must not blow up
    live = hessian.diagonal()[~dead]
    hessian[dead, dead] = live.mean() if len(live) else 1.0
    hessian.diagonal().add_(damp * hessian.diagonal().mean())
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    codes = torch.empty_like(weight, dtype=torch.uint8)
    scales, zeros = [], []
    for start in range(0, w.shape[1], group):
        # Each group's grid is set when the group is reached, so that it fits the weights as updated so far.
        scale, zero = rtn_grid(w[:, start : start + group].float(), bits, group)
        scales.append(scale)
        zeros.append(zero)
        s, z = scale.double()[:, 0], zero.double()[:, 0]
        for i in range(start, start + group):
            code = (w[:, i] / s + z).round().clamp(0, 2**bits - 1)
            codes[:, i] = code.to(torch.uint8)
            error = (w[:, i] - (code - z) * s) / upper[i, i]
            w[:, i + 1 :] -= error[:, None] * upper[i, i + 1 :]
    return codes, torch.cat(scales, 1), torch.cat(zeros, 1)
