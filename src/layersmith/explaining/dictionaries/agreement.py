"""Which features two dictionaries share: matched one to one by the Hungarian method.

Paper: Paulo and Belrose 2025, "Sparse Autoencoders Trained on the Same Data Learn Different Features", arXiv
2501.16615. Confirmed in the authors' code (SrGonao/sae_overlap): the Hungarian method, cosines of encoder and of
decoder rows, both of which have to be above 0.7.
Differs from the paper: one assignment by the sum of both cosines, where it makes one by the encoders and another by the
decoders; a feature that the two would match differently keeps one partner here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from layersmith.errors import UserError
from layersmith.ffn.sparse_dictionary import SparseDictionary

#: Features are the same when the cosines of their encoder and of their decoder rows are both at least this.
SAME = 0.7


@dataclass(frozen=True)
class Agreement:
    """
    partner  int64 (F,): the feature of the second dictionary that each of the first is matched with
    encoder  (F,) cosine of their encoder rows
    decoder  (F,) cosine of their decoder rows
    """

    partner: Tensor
    encoder: Tensor
    decoder: Tensor

    def shared(self, same: float = SAME) -> float:
        """The share of features with both cosines at least `same`."""
        return float(((self.encoder >= same) & (self.decoder >= same)).double().mean())


@torch.no_grad()
def agreement(first: SparseDictionary, second: SparseDictionary) -> Agreement:
    """Match two dictionaries of equal size. Time grows with the cube of the features: a minute at some ten thousand."""
    if first.decoder.shape != second.decoder.shape:
        raise UserError(
            f"Dictionaries of {tuple(first.decoder.shape)} and {tuple(second.decoder.shape)} (features, width) cannot "
            f"be matched one to one. Train both with the same expansion at the same site."
        )
    encoders = cosines(first.encoder.weight, second.encoder.weight)
    decoders = cosines(first.decoder, second.decoder)
    rows, columns = linear_sum_assignment((encoders + decoders).double().cpu().numpy(), maximize=True)
    own, partner = torch.from_numpy(rows), torch.from_numpy(columns)
    return Agreement(partner, encoders[own, partner], decoders[own, partner])


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(M, N): of the rows of a (M, D) and of b (N, D). A row of zeros has cosine 0 with everything."""
    return F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
