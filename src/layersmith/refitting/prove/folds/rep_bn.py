"""Move a finished batch norm into the linear maps that read it: in use it was one factor and constant per channel.

    W (g * x + c) + b  =  (W diag(g)) x + (b + W c)        g = gamma / sqrt(sigma^2 + eps) + alpha
                                                           c = beta - gamma * mu / sqrt(sigma^2 + eps)

for q, k, v, gate, up, ... The norm's place is then empty: nothing is computed there. A reader without a bias gets one.

Paper: arXiv 2405.11582, SLAB. Confirmed in the authors' code (xinghaochen/SLAB, merge_bn): both formulas, and the new
biases in their language model. When it pays: always, for a model whose norms are `prep_bn` with lambda = 0, trained
so or put there by the method `prep_bn`.
Differs from the paper: the fold is proved on the model at hand; norms that feed other things than linear maps stay.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.anatomy.probe import example_inputs
from layersmith.anatomy.trace import Trace, record
from layersmith.errors import UserError
from layersmith.ffn.identity import Identity
from layersmith.norm.prep_bn import PRepBN
from layersmith.refitting.prove.folds.affine import into_readers
from layersmith.refitting.prove.folds.fold import Fold, proved
from layersmith.refitting.prove.folds.gain import PROOF, Left, readers_of


def fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model without its finished `PRepBN`s, as a proved `Fold`. The model is not changed.

    Norms that stay are named in the notes, with the reason. Raises UserError when none can go, or the proof fails.
    """
    trace = record(model, example_inputs(model))
    return proved(model, lambda model: _fold(model, anatomy, trace), PROOF)


@torch.no_grad()
def _fold(model: nn.Module, anatomy: Anatomy, trace: Trace) -> Fold:
    weights: dict[str, Tensor] = {}
    edits: Replacement = []
    notes = []
    paths = {path for site in anatomy.of_kind("norm") for path in site.modules}
    for path, norm in [(p, m) for p, m in model.named_modules() if isinstance(m, PRepBN)]:
        try:
            if path not in paths:
                raise Left("it stands where no norm was found")
            if not norm.finished:
                raise Left(f"its schedule is at step {int(norm.step)} of {norm.steps}, so it is a LayerNorm in part")
            factor, constant = norm.as_affine()
            new_weights, new_edits = into_readers(model, readers_of(model, trace, path), factor, constant)
        except Left as reason:
            notes.append(f"{path} stays: {reason}.")
            continue
        identity = Identity(norm.d_in)
        weights |= new_weights
        edits += [*new_edits, (Edit(path, identity.spec(), {}), identity.train(norm.training))]
    if not edits:
        raise UserError(
            f"No batch norm can be folded. {' '.join(notes)} This fold is for models whose norms are finished "
            f"'prep_bn' parts, put there by training or by the method 'prep_bn'."
        )
    return Fold(weights, edits, notes=tuple(notes))
