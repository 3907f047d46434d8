"""Every weight matrix of a sublayer in 4 bits a weight, in groups of 32, 64 or 128; inputs as they are, or in int8.

    code = clamp(round(w / scale + zero), 0, 15),   scale = (high - low) / 15 over the group's range, 0 included

with zero = round(-low / scale), so that 0 lies on the grid, or zero = -low / scale, so that both ends do: each group
takes the grid that is nearer to its weights. Weights that were on such a grid before (a model out of a 4-bit file) stay
where they were, up to the float16 of scale and zero. With `input_bits=8` inputs are rounded group by group, which makes
the product with one token a matter of whole numbers. Where 4 bits cost something, it costs little more; in a model out
of a 4-bit file, where they cost nothing, it is what is lost (`benchmarks/results/decode-avx2.csv`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.linear.quantized import QuantizedLinear, rtn_grid
from layersmith.refitting.method import Method, Settings, each_matrix
from layersmith.refitting.view import SublayerView

BITS, GROUPS = 4, (32, 64, 128)


class Int4Weight(Method):
    name = "int4_weight"
    kinds = ("ffn", "mixer", "head")
    builds = ("quantized",)
    default = True
    everywhere = True
    saves = ("latency", "bytes")
    requires = "weight matrices whose input widths a group of 32, 64 or 128 divides"
    when_it_pays = "Where bytes are what counts and some loss is allowed; next to none in a model out of a 4-bit file."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.linears():
            return "it has no weight matrices"
        if not self.options(view):
            widths = sorted({width(module) for module in view.linears().values()})
            return f"no group of {', '.join(map(str, GROUPS))} inputs divides all of its widths ({widths})"
        return None

    def options(self, view: SublayerView) -> list[Settings]:
        widths = [width(module) for module in view.linears().values()]
        fitting = [{"group_size": group} for group in GROUPS if not any(w % group for w in widths)]
        return fitting + [settings | {"input_bits": 8} for settings in fitting[:1]]  # small groups lose least by it

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        def packed(weight: Tensor, bias: Tensor | None) -> QuantizedLinear:
            return on_nearer_grid(weight, settings["group_size"], bias, settings.get("input_bits"))

        return each_matrix(view, packed)


def width(module: torch.nn.Module) -> int:
    """Inputs of an `nn.Linear`, or of a `Conv1D`, whose weight is transposed."""
    weight = module.weight
    assert isinstance(weight, Tensor)  # for the type checker
    return weight.shape[1 if isinstance(module, torch.nn.Linear) else 0]


def on_nearer_grid(
    weight: Tensor, group_size: int, bias: Tensor | None = None, input_bits: int | None = None
) -> QuantizedLinear:
    """`weight` (d_out, d_in) on the nearer of the two grids, group by group."""
    groups = weight.detach().float().unflatten(-1, (-1, group_size))
    scale, rounded = rtn_grid(weight, BITS, group_size)
    low = groups.amin(-1).clamp(max=0)
    exact = (-low / scale.float()).clamp(0, 2**BITS - 1).half()
    found = []
    for zero in (rounded, exact):
        codes = ((groups / scale.float()[..., None]) + zero.float()[..., None]).round().clamp(0, 2**BITS - 1)
        back = (codes - zero.float()[..., None]) * scale.float()[..., None]
        found.append((codes.to(torch.uint8), (back - groups).square().sum(-1)))
    nearer = found[1][1] < found[0][1]
    codes = torch.where(nearer[..., None], found[1][0], found[0][0]).flatten(-2)
    return QuantizedLinear.from_codes(codes, scale, torch.where(nearer, exact, rounded), BITS, bias, input_bits)
