"""Move what is affine before linear maps into them: a factor and a constant for each channel, and the mean taken off.

    W (g * x + c) + b  =  (W diag(g)) x + (b + W c)
    W (g * (x - mean(x)) + c) + b  =  (W diag(g) (I - 11^T / D)) x + (b + W c)

A reader without a bias gets one, where the constant is not zero.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.dense import Dense
from layersmith.refitting.prove.folds.fold import rounded


def into_readers(
    model: nn.Module, readers: list[str], factor: Tensor, constant: Tensor, centred: bool = False
) -> tuple[dict[str, Tensor], Replacement]:
    """New values for readers (paths) that have a bias, and new modules for those that need one.

    factor, constant  (D,) float64
    centred           the mean of x over its channels is taken off before the factor
    """
    weights: dict[str, Tensor] = {}
    edits: Replacement = []
    for path in readers:
        linear: Any = model.get_submodule(path)
        transposed = not isinstance(linear, nn.Linear)  # Conv1D keeps (in, out)
        matrix = linear.weight.double().T if transposed else linear.weight.double()
        scaled = matrix * factor
        if centred:
            scaled = scaled - scaled.mean(1, keepdim=True)
        weight, bias = rounded(scaled, linear.weight), matrix @ constant
        if linear.bias is None and bool((constant != 0).any()):
            part = Dense.from_weight(weight, rounded(bias, linear.weight)).train(linear.training)
            edits.append((Edit(path, part.spec(), {}), part))
            continue
        weights[f"{path}.weight"] = weight.T.contiguous() if transposed else weight
        if linear.bias is not None:
            weights[f"{path}.bias"] = rounded(linear.bias.double() + bias, linear.bias)
    return weights, edits
