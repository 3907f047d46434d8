"""Multiply out linear maps that follow each other with nothing in between, where that is the cheaper way to run them.

    a feed-forward without an activation      W_down (W_up x + b_up) + b_down  =  (W_down W_up) x + (W_down b_up + b_down)
    a `low_rank` map whose rank saves nothing    U (V x) + c  =  (U V) x + c

Paper: P343, RePaViT, whose feed-forwards have hidden channels that pass no activation; merging them is this product.
When it pays: always, since only the cheaper form is taken: after a search has put such parts in place.
Differs from the paper: a feed-forward is merged as a whole or not at all. Channels that merely look linear (a ReLU
that was on for all of the calibration text) are not merged: that is an approximation, and no fold.
"""

from __future__ import annotations

import torch
from torch import nn

from layersmith import catalogue
from layersmith.anatomy import Anatomy, Site, replacement_for
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.anatomy.recognise import as_ffn
from layersmith.errors import UserError
from layersmith.ffn.mlp import MLP
from layersmith.linear.dense import Dense
from layersmith.linear.low_rank import LowRank
from layersmith.refit.folds.fold import Fold, proved


def merge(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model with consecutive linear maps multiplied out, as a proved `Fold`. The model is not changed.

    Raises UserError when there is nothing to merge, or when the proof fails.
    """
    return proved(model, lambda model: _fold(model, anatomy))


@torch.no_grad()
def _fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    edits: Replacement = []
    for site in anatomy.of_kind("ffn"):
        edits += _merged_ffn(model, site)
    taken = tuple(f"{edit.path}." for edit, _ in edits)
    for path, module in model.named_modules():
        if isinstance(module, LowRank) and not f"{path}.".startswith(taken):
            edits += _merged_low_rank(path, module)
    if not edits:
        raise UserError(
            "There is nothing to merge: no feed-forward has the activation 'identity' and a hidden layer wider than "
            "half the model, and no low_rank map has a rank that saves nothing. Channels that are linear on some "
            "text only (a ReLU that is always on there) are not merged, because that would not be exact."
        )
    return Fold({}, edits)


def _merged_ffn(model: nn.Module, site: Site) -> Replacement:
    """The edits that put the product of a linear feed-forward at its site; none where it is not linear or no gain."""
    found = as_ffn(model, site)
    if found is None or site.locked or not isinstance(found.operator, MLP):
        return []
    mlp = found.operator
    if mlp.spec()["act"] != "identity" or 2 * mlp.up.out_features <= site.d_model:
        return []
    up, down = mlp.up, mlp.down
    part = catalogue.build({"name": "affine", "d_model": site.d_model, "bias": up.bias is not None})
    part = part.to(up.weight.device, up.weight.dtype).train(model.get_submodule(site.modules[0]).training)
    part.linear.weight.copy_(down.weight.double() @ up.weight.double())
    if up.bias is not None:
        part.linear.bias.copy_(down.weight.double() @ up.bias.double() + down.bias.double())
    return replacement_for(model, site, part)


def _merged_low_rank(path: str, module: LowRank) -> Replacement:
    rank, d_out = module.v.out_features, module.u.out_features
    d_in = module.v.in_features
    if rank * (d_in + d_out) < d_in * d_out:
        return []
    weight = module.u.weight.double() @ module.v.weight.double()
    bias = None if module.u.bias is None else module.u.bias.detach()
    part = Dense.from_weight(weight.to(module.u.weight.dtype), bias).train(module.training)
    return [(Edit(path, part.spec(), {}), part)]
