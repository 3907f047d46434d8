"""Move norms that divide by a fixed number into the linear maps that read them: nothing is computed in their place.

    W (w * (x - mean(x)) / s + b) + c  =  (W diag(w / s) (I - 11^T / D)) x + (c + W b)

for q, k, v, gate, up, ...; without I - 11^T / D where the mean stays.

Paper: arXiv 2409.13710, "You can remove GPT2's LayerNorm by fine-tuning". When it pays: always, for a model whose norms
are `fixed_norm` parts of one size for all tokens.
Differs from the paper: the fold is proved on the model at hand; norms that feed other things than linear maps stay, and
so does one before a head that shares its weights with the embedding.
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
from layersmith.norm.fixed_norm import FixedNorm
from layersmith.refitting.prove.folds.affine import into_readers
from layersmith.refitting.prove.folds.fold import Fold, proved
from layersmith.refitting.prove.folds.gain import PROOF, Left, readers_of


def fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model without its finished `FixedNorm`s, as a proved `Fold`. The model is not changed.

    The anatomy is not asked: what divides all tokens by one number does not behave like a norm, and is no site now.
    Norms that stay are named in the notes, with the reason. Raises UserError when none can go, or the proof fails.
    """
    trace = record(model, example_inputs(model))
    return proved(model, lambda model: _fold(model, trace), PROOF)


@torch.no_grad()
def _fold(model: nn.Module, trace: Trace) -> Fold:
    weights: dict[str, Tensor] = {}
    edits: Replacement = []
    notes = []
    for path, norm in [(p, m) for p, m in model.named_modules() if isinstance(m, FixedNorm)]:
        try:
            if norm.sinks:
                raise Left("it divides sinks by a number of their own")
            if not norm.finished:
                raise Left(f"it is a norm until {norm.steps} steps of training are done, and {int(norm.step)} are")
            factor, constant = norm.as_affine()
            found = into_readers(model, readers_of(model, trace, path), factor, constant, centred=norm.centre)
        except Left as reason:
            notes.append(f"{path} stays: {reason}.")
            continue
        identity = Identity(norm.d_in)
        weights |= found[0]
        edits += [*found[1], (Edit(path, identity.spec(), {}), identity.train(norm.training))]
    if not edits:
        raise UserError(
            f"No fixed norm can be folded. {' '.join(notes)} This fold is for models whose norms are 'fixed_norm' "
            f"parts with one size for all tokens, put there by training or by the method 'fixed_norm'."
        )
    return Fold(weights, edits, notes=tuple(notes))
