"""One token through a `series` block by one compiled call (`kernels/step`), where the block is of the kind it computes.

That kind: norms before the sublayers, sums without factors, `rms_norm`, `fused_attention` over a cache with room,
`fused_glu` with silu, and four linear maps that the kernels read row by row (`kernels/row_form.py`). Everything is
looked up anew at every call, so whatever has been moved, loaded or replaced since is seen. The parts themselves are not
called then, which somebody may wait for: one with hooks or a `forward` of its own, or of a class derived from these
(adapters work in such ways), leaves the block to its own lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from layersmith.contract import State
from layersmith.ffn.fused_glu import FusedGLU
from layersmith.kernels import native, step
from layersmith.kernels.one_row import OneRowLinear
from layersmith.kernels.row_form import RowForm
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.one_row import OneRow
from layersmith.linear.quantized import QuantizedLinear
from layersmith.mixer.fused_attention import FusedAttention
from layersmith.norm.rms_norm import RMSNorm

if TYPE_CHECKING:
    from layersmith.block.series import Series

Part = TypeVar("Part", bound=nn.Module)
MAPS = (OneRowLinear, OneRow, QuantizedLinear, Int8Dynamic)


def one_token(layer: Series, x: Tensor, state: State) -> tuple[Tensor, State] | None:
    """y and the new state of the layer for the token x (1, 1, D), all real; None where its own lines have to run."""
    plain_sums = layer.first_ffn is None and layer.mixer_factors == layer.ffn_factors == (1.0, 1.0)
    if layer.post or not plain_sums or not native.inferring():
        return None
    # Parts are taken from where torch keeps them: weights have swept the caches since the last token, so that every
    # look-up waits for memory, and an attribute takes three.
    parts = layer._modules
    norm, mixer, ffn_norm, ffn = parts["norm"], parts["mixer"], parts["ffn_norm"], parts["ffn"]
    if not (_is(norm, RMSNorm) and _is(mixer, FusedAttention) and _is(ffn_norm, RMSNorm) and _is(ffn, FusedGLU)):
        return None
    place = mixer.place_of_one(x, state, None)
    if place is None or ffn.act is not F.silu or _has_any_global_hook():
        return None
    maps_of_mixer, maps_of_ffn = mixer._modules, ffn._modules
    linears = maps_of_mixer["qkv"], maps_of_mixer["o"], maps_of_ffn["gate_up"], maps_of_ffn["down"]
    found = [_row_form(linear) for linear in linears]
    maps = [form for form in found if form is not None]
    norms = (norm.weight, norm.bias), (ffn_norm.weight, ffn_norm.bias)
    if len(maps) < len(found) or not step.serves(x, norms, maps):
        return None
    y = step.series_step(x, norms, maps, (norm.eps, ffn_norm.eps), (norm.offset, ffn_norm.offset), place)
    return y, mixer.after_one(state, place)


def _row_form(linear: nn.Module | None) -> RowForm | None:
    if isinstance(linear, MAPS) and type(linear) in MAPS and not _watched(linear):
        return linear.row_form()
    return None


def _is(part: nn.Module | None, kind: type[Part]) -> TypeGuard[Part]:
    return isinstance(part, kind) and type(part) is kind and not _watched(part)


def _watched(part: nn.Module) -> bool:
    """Whether somebody waits for the part to be called, or has given it another way to be."""
    return bool(part._forward_hooks or part._forward_pre_hooks) or "forward" in vars(part)
