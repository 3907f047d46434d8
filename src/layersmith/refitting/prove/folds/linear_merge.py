"""Multiply out linear maps that follow each other with nothing in between, where that is the cheaper way to run them.

    W_down (W_up x + b_up) + b_down  =  (W_down W_up) x + (W_down b_up + b_down)     no activation in a feed-forward
    U (V x) + c  =  (U V) x + c                                          a `low_rank` map whose rank saves nothing

Paper: arXiv 2505.21847, RePaViT, whose feed-forwards have hidden channels that pass no activation; merging them is
this product.
When it pays: always, since only the cheaper form is taken: after a search has put such parts in place.
Differs from the paper: a feed-forward is merged as a whole or not at all. Channels that merely look linear (a ReLU
that was on for all of the calibration text) are not merged: that is an approximation, and no fold.
"""

from __future__ import annotations

import torch
from torch import nn

from layersmith.anatomy import Anatomy, Site, replacement_for
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.trace import Call, Trace, record
from layersmith.errors import UserError
from layersmith.ffn.affine import Affine
from layersmith.linear.dense import Dense
from layersmith.linear.low_rank import LowRank
from layersmith.refitting.method import weight_and_bias
from layersmith.refitting.prove.folds.fold import Fold, proved
from layersmith.refitting.prove.folds.stream import PASSING


def merge(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model with consecutive linear maps multiplied out, as a proved `Fold`. The model is not changed.

    Raises UserError when there is nothing to merge, or when the proof fails.
    """
    trace = record(model, example_inputs(model))
    return proved(model, lambda model: _fold(model, anatomy, trace))


@torch.no_grad()
def _fold(model: nn.Module, anatomy: Anatomy, trace: Trace) -> Fold:
    edits: Replacement = []
    for site in anatomy.of_kind("ffn"):
        edits += _merged_ffn(model, site, trace)
    taken = tuple(f"{edit.path}." for edit, _ in edits)
    for path, module in model.named_modules():
        if isinstance(module, LowRank) and not f"{path}.".startswith(taken):
            edits += _merged_low_rank(path, module)
    if not edits:
        raise UserError(
            "There is nothing to merge: no feed-forward is two linear maps with nothing in between and a hidden "
            "layer wider than half the model, and no low_rank map has a rank that saves nothing. What is linear on "
            "some text only (a ReLU that is always on there) is not merged, because that would not be exact."
        )
    return Fold({}, edits)


def _merged_ffn(model: nn.Module, site: Site, trace: Trace) -> Replacement:
    """The edits that put the product of a linear feed-forward at its site; none where it is not linear or no gain."""
    maps = None if site.locked else _two_maps(site, trace)
    if maps is None:
        return []
    (up, b_up), (down, b_down) = (weight_and_bias(model.get_submodule(path)) for path in maps)
    if 2 * len(up) <= site.d_model:
        return []
    part = Affine(site.d_model, bias=b_up is not None or b_down is not None).to(up)
    part.linear.weight.copy_(down.double() @ up.double())
    if part.linear.bias is not None:
        bias = torch.zeros_like(down[:, 0], dtype=torch.float64)
        bias += 0 if b_up is None else down.double() @ b_up.double()
        bias += 0 if b_down is None else b_down.double()
        part.linear.bias.copy_(bias)
    return replacement_for(model, site, part.train(model.get_submodule(site.modules[0]).training))


def _two_maps(site: Site, trace: Trace) -> tuple[str, str] | None:
    """The paths of two linear maps, if they are all that leads from the site's input to its output.

    Read off the recorded operations. A trial of the outputs could not tell: a ReLU may be on for all it is shown.
    """
    producers = {value: op for op in trace.ops for value in op.outputs}

    def behind(value: int) -> int:
        """The value before it was copied or brought into another shape."""
        while value in producers and producers[value].name in PASSING and len(producers[value].inputs) == 1:
            value = producers[value].inputs[0]
        return value

    def linear(value: int) -> Call | None:
        """The linear map that computed the value."""
        op = producers.get(behind(value))
        call = trace.calls[op.call] if op is not None and op.heavy else None
        is_linear = call is not None and (isinstance(call.module, nn.Linear) or type(call.module).__name__ == "Conv1D")
        return call if is_linear else None

    first = next(c for c in trace.calls if c.path == site.modules[0])
    last = next(c for c in trace.calls if c.path == site.modules[-1])
    down = linear(last.outputs[0].value)
    up = None if down is None else linear(down.inputs[0].value)
    if up is None or down is None or behind(up.inputs[0].value) != behind(first.inputs[0].value):
        return None
    return up.path, down.path


def _merged_low_rank(path: str, module: LowRank) -> Replacement:
    if not (isinstance(module.v, nn.Linear) and isinstance(module.u, nn.Linear)):
        return []  # its factors are in a number format by now (low_rank+int8_dynamic): no product of them is exact
    rank, d_out = module.v.out_features, module.u.out_features
    d_in = module.v.in_features
    if rank * (d_in + d_out) < d_in * d_out:
        return []
    weight = module.u.weight.double() @ module.v.weight.double()
    bias = None if module.u.bias is None else module.u.bias.detach()
    part = Dense.from_weight(weight.to(module.u.weight.dtype), bias).train(module.training)
    return [(Edit(path, part.spec(), {}), part)]
