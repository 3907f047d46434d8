"""Pre-LN to Pre-RMSNorm: take the mean out of everything that writes to the stream, and no norm has to subtract it.

With C = I - 11^T/d, a LayerNorm reads only C x of the stream x:   LayerNorm(x) = RMSNorm(C x), same eps, gain, bias.
x is a sum of what was written: embeddings, positions, W a + b of every sublayer. So with every table, W and b
multiplied by C the stream is C x everywhere, and each LayerNorm becomes an RMSNorm with a bias. Hidden states that a
caller asks for between the blocks are then the centred ones; what follows the final norm is what it was.

A head that is tied to the embedding (GPT-2, OPT) needs the table as it was. It keeps it, and the two are no longer
tied: the table is stored twice, with no more work per token. (A centring step behind the embedding would keep one
table, but costs time in every forward pass, and OPT has no module there.)

Paper: Pre-RMSNorm and Pre-CRMSNorm Transformers, arXiv 2305.14858. When it pays: where norms take a visible
share of the time and RMSNorm is the faster kernel on the machine at hand. Only the clock can tell; and without a
LayerNorm's mean, norms can be absorbed by rotations and gains folded further.
Differs from the paper: no Pre-CRMSNorm, which drops one channel and with it every well-aligned matrix width; the
norm itself is the part `crms_norm`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy, Site
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.errors import UserError
from layersmith.norm.layer_norm import LayerNorm
from layersmith.norm.rms_norm import RMSNorm
from layersmith.refitting.prove.folds.fold import Fold, other_names, proved, rounded
from layersmith.refitting.prove.folds.stream import writers


def fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model with RMSNorms for LayerNorms and centred writers, as a proved `Fold`. The model is not changed.

    Raises UserError, with the reason, for a model that already has RMSNorms, has norms on the stream itself
    (Post-LN), writes to the stream in a way that cannot be centred, or fails the proof.
    """
    return proved(model, lambda model: _fold(model, anatomy))


@torch.no_grad()
def _fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    sites = anatomy.of_kind("norm")
    if not sites:
        raise UserError("The model has no norms, so there is nothing to turn into RMSNorms.")
    edits: Replacement = [_rms_norm(model, site) for site in sites]
    weights: dict[str, Tensor] = {}
    notes = []
    for name, dimension in writers(model, anatomy).items():
        weights[name] = _centred(model.get_parameter(name), dimension)
        for other in other_names(model, name):
            user = model.get_submodule(other.rpartition(".")[0])
            if isinstance(user, nn.Embedding):
                weights[other] = weights[name]
            elif isinstance(user, nn.Linear):
                notes.append(f"{other} was one with {name}; it stays as it was, and is now stored beside it.")
            else:
                raise UserError(f"{other} shares its weights with {name}, which is to be centred; it would change too.")
    return Fold(weights, edits, unties=bool(notes), notes=tuple(notes))


def _rms_norm(model: nn.Module, site: Site) -> tuple[Edit, nn.Module]:
    """The norm at the site as an RMSNorm with the same eps, gain and bias."""
    (path,) = site.modules
    norm: Any = model.get_submodule(path)
    if not isinstance(norm, nn.LayerNorm | LayerNorm):
        raise UserError(
            f"{site.name} is a {type(norm).__name__}, not a LayerNorm: there is no mean subtraction to take out. This "
            f"fold is for models whose norms are all LayerNorms before the sublayers (GPT-2, OPT, GPT-NeoX, ViT)."
        )
    part = RMSNorm(site.d_model, eps=norm.eps, bias=norm.bias is not None)
    like = next(model.parameters()) if norm.weight is None else norm.weight
    part = part.to(like.device, like.dtype).train(norm.training)
    if norm.weight is not None:
        part.weight.copy_(norm.weight)
    if part.bias is not None and norm.bias is not None:
        part.bias.copy_(norm.bias)
    return Edit(path, part.spec(), {}), part


def _centred(weight: Tensor, dimension: int) -> Tensor:
    wide = weight.detach().double()
    return rounded(wide - wide.mean(dimension, keepdim=True), weight)
