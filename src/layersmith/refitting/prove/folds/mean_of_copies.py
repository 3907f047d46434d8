"""Put one feed-forward in the place of copies that were only trained apart: the one with their mean weights.

    E(x; mean_i W_i) is what `averaged_copies` computes in inference already, from N times the weights.

Paper: arXiv 2308.06093, "Experts Weights Averaging". When it pays: always.
"""

from __future__ import annotations

from torch import nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.edit import Edit
from layersmith.errors import UserError
from layersmith.ffn.averaged_copies import AveragedCopies
from layersmith.refitting.prove.folds.fold import Fold, proved


def fold(model: nn.Module, anatomy: Anatomy) -> Fold:
    """The model without `AveragedCopies`, as a proved `Fold`. The model is not changed.

    Raises UserError when there are none, or the proof fails.
    """
    if not any(isinstance(module, AveragedCopies) for module in model.modules()):
        raise UserError(
            "There are no averaged experts to collapse. This fold is for models with 'averaged_copies' parts, put "
            "there by training or by the method 'averaged_copies'."
        )
    return proved(model, _fold)


def _fold(model: nn.Module) -> Fold:
    found = [(path, module.collapsed()) for path, module in model.named_modules() if isinstance(module, AveragedCopies)]
    return Fold({}, [(Edit(path, dense.spec(), {}), dense) for path, dense in found])
