"""Small layers for the tests of blocks, and blocks in float64 whose parameters have left their starting values."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith import catalogue

D = 8
NORM = {"name": "rms_norm"}
SOFTMAX = {"name": "softmax_attention", "n_heads": 2, "rope_theta": 100.0}
DELTA = {"name": "deltanet", "n_heads": 2, "chunk": 4}
FFN = {"name": "glu", "d_hidden": 12}
LAYER = {"norm": NORM, "mixer": SOFTMAX, "ffn_norm": NORM, "ffn": FFN}
OTHER = {**LAYER, "mixer": DELTA}


def block(name: str, **config: Any) -> Any:
    """The block, every parameter a little off its start: what starts at zero would not be seen."""
    torch.manual_seed(0)
    built = catalogue.build({"name": name, "d_model": D, **config}).double().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built


def tokens(count: int = 7, batch: int = 2) -> Tensor:
    return torch.randn(batch, count, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def stacked(layers: Any, x: Tensor) -> Tensor:
    """What the layers make of x one after the other."""
    for layer in layers:
        x = layer(x)[0]
    return x
