"""int8 as `int8_dynamic`, after channels with outliers have handed part of their range over to the weights.

Between two matrices of one sublayer a channel can be made smaller and the weights that read it larger, with the same
result: h_j -> h_j / s_j and W[:, j] -> s_j W[:, j]. Rounding a token to int8 loses by its largest channel, rounding a
row of weights by its largest weight; s_j shares that out evenly:

    s_j = max_t |h_tj|^alpha / max_o |W_oj|^(1 - alpha)

The channels are those between a gated feed-forward's up and down, and between an attention's values and its output
matrix, where all query heads of a key head share one s. What makes a channel (a row of up, of v) takes the 1 / s_j.

Paper: SmoothQuant, arXiv 2211.10438. Confirmed in the released code: s and its maxima, alpha 0.5, one scale a token and
one a row. Its places are others: channels between a norm and the matrices that read it, 1 / s_j in the norm's gain.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.view import SublayerView

#: What makes the channels, and what reads them, by kind of site.
ENDS = {"ffn": ("up", "down"), "mixer": ("v", "o")}


class SmoothInt8(Method):
    name = "smooth_int8"
    kinds = ("ffn", "mixer")
    papers = ("2211.10438",)
    builds = ("int8_dynamic",)
    default = False
    saves = ("latency", "bytes")
    requires = "a gated feed-forward, or softmax attention, whose matrices are apart"
    statistics = ("grams",)
    when_it_pays = "Where a few hidden channels are so much larger than the others that `int8_dynamic` loses these."
    missing = "the paper's own places: channels that a norm makes, whose gain belongs to another site"
    differs = "Scales of activations are found token by token, so only ranges that differ within a token matter."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        found = view.ffn or view.attention
        if found is None or (view.site.kind == "ffn" and found.operator.name != "glu"):
            return "it is neither a gated feed-forward nor softmax attention"
        apart = set(ENDS[view.site.kind]) <= found.parts.keys()
        return None if apart else "the matrices that make and read its channels are one with others"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"alpha": 0.5}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        found, linears = view.ffn or view.attention, view.linears()
        makes, reads = (found.parts[part] for part in ENDS[view.site.kind])
        shape = channels(found.operator)
        read, _ = weight_and_bias(linears[reads])
        scale = smoothing(view.largest[reads], read, shape, settings["alpha"])
        replacement: Replacement = []
        for path, module in linears.items():
            weight, bias = weight_and_bias(module)
            if path == makes:
                weight, bias = weight / scale[:, None], None if bias is None else bias / scale
            elif path == reads:
                weight = weight * scale.view(shape[0], 1, shape[2]).expand(shape).flatten()
            part = Int8Dynamic.from_weight(weight, bias)
            replacement.append((Edit(path, part.spec(), {}), part))
        return replacement


def channels(operator: Any) -> tuple[int, int, int]:
    """(groups, readers, width) of what the second matrix reads; readers of a group read the same channels."""
    if operator.name == "glu":
        return operator.down.weight.shape[1], 1, 1
    heads = operator.o.weight.shape[1] // operator.head_dim
    return operator.n_kv_heads, heads // operator.n_kv_heads, operator.head_dim


def smoothing(largest: Tensor, weight: Tensor, shape: tuple[int, int, int], alpha: float) -> Tensor:
    """s_j (groups * width,) of the formula above; 1 for a channel that is never used, or never read.

    largest  (d_in,) magnitudes of the inputs of the matrix that reads the channels
    weight   that matrix, (d_out, d_in)
    """
    x = largest.view(shape).amax(1).flatten()
    w = weight.abs().amax(0).view(shape).amax(1).flatten()
    return torch.where((x > 0) & (w > 0), x**alpha / w.clamp_min(1e-30) ** (1 - alpha), 1.0)
