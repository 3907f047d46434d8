"""Turn a feed-forward into MemoryFormer's two look-up layers, tables fitted table by table by least squares.

Paper: arXiv 2411.12992, "MemoryFormer". The hidden layer is asked for numbers whose signs tell much: the principal
components of the trained outputs, then those of the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.memory_former import MemoryFormer
from layersmith.linear.memory_linear import MemoryLinear
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.view import SublayerView

BITS = (6, 4)
EXTRA_BITS = 1


class ToMemoryFormer(Method):
    name = "memory_former"
    kinds = ("ffn",)
    papers = ("2411.12992",)
    builds = ("memory_former",)
    default = False
    saves = ("flops",)
    requires = "a width that the bits of a table divide"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Where memory is plentiful and products are dear; tables are 2^bits / bits times as large as the matrices, "
        "and rows met by few calibration tokens stay near 0, so it is offered only when asked for."
    )
    differs = "The start is a trained layer; fewer bits, so that calibration meets most rows."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        d_model = view.site.d_model
        return (
            None if self.options(view) else f"its width {d_model} is not a multiple of {' or of '.join(map(str, BITS))}"
        )

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"bits": bits} for bits in BITS if view.site.d_model % bits == 0]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        memory = MemoryFormer(view.site.d_model, settings["bits"], EXTRA_BITS, weight="scaled").to(view.device)
        wanted = torch.cat([components(view.targets), components(view.inputs)], 1)[:, : memory.norm.weight.numel()]
        fit_tables(memory.up, view.inputs, wanted)
        fit_tables(memory.down, memory.norm(memory.up(view.inputs)), view.targets)
        return view.as_replacement(memory)


def components(x: Tensor) -> Tensor:
    """The principal components of x (tokens, D), strongest first, each of mean 0 and deviation 1."""
    centred = (x - x.mean(0)).double()
    size, vectors = torch.linalg.eigh(centred.T @ centred / len(x))
    scaled = centred @ vectors.flip(1) / size.flip(0).clamp_min(1e-6 * size.max()).sqrt()
    return scaled.to(x.dtype)


@torch.no_grad()
def fit_tables(layer: MemoryLinear, x: Tensor, y: Tensor, rounds: int = 2, strength: float | None = None) -> None:
    """Set the tables by backfitting: each in turn is the ridge fit of what the others leave of y (tokens, d_out).

    strength   in tokens: a row met by so few is shrunk to half. By default so large that the rows which the tokens
               really determine number a quarter of the tokens
    """
    weight, row = layer.look_up(x)
    tables, rows, _ = layer.tables.shape
    if strength is None:
        determined = min(0.9, len(x) / (4 * tables * rows))
        strength = len(x) / rows * (1 / determined - 1)
    code = row - rows * torch.arange(tables, device=row.device)
    layer.tables.zero_()
    left = y
    if layer.bias is not None:
        layer.bias.copy_(y.mean(0))
        left = y - layer.bias
    for _ in range(rounds):
        for k in range(tables):
            w, c = weight[:, k], code[:, k]
            old = layer.tables[k].clone()
            cross = torch.zeros_like(old).index_add_(0, c, w[:, None] * left)
            size = w.new_zeros(rows).index_add_(0, c, w.square())
            # `left` lacks this table's own part, so the fit is of old row + correction.
            damp = strength * w.square().mean()
            layer.tables[k] = (cross + size[:, None] * old) / (size + damp)[:, None]
            left = left - w[:, None] * (layer.tables[k] - old)[c]
