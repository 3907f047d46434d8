"""What a dictionary is trained to make small: its error, a penalty that keeps codes sparse, the dead features' error.

    error    ||y - y'||^2 / ||y - mean||^2: 1 is what the mean output scores
    penalty  relu      sum of the codes                        (arXiv 2309.08600; decoder rows have norm 1)
             jumprelu  number of active features               (arXiv 2407.14435)
             gated     sum of the gate's positive pre-activations, and the error of what they alone would decode
                       through a frozen decoder                (arXiv 2404.16014)
             topk, batch_topk  none                            (arXiv 2406.04093, 2412.06410)
    revival  ||e - e'||^2 / ||e||^2, where e is what is left of the output and e' what those dead features decode to
             whose pre-activations are largest                 (arXiv 2406.04093)

Sums and numbers are per token, divided by what they are when k features carry a vector of norm sqrt(D), so that one
weight suits all widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.ffn.shared.sparse_codes import largest, step
from layersmith.ffn.sparse_dictionary import SparseDictionary
from layersmith.kernels.gather import rows_sum


@dataclass
class Losses:
    """Of one batch. `active` is the mean number of active features, `fired` (F,) which were."""

    error: Tensor
    penalty: Tensor | None
    active: Tensor
    fired: Tensor
    #: What is left of the outputs, (N, D), without a graph.
    left: Tensor
    #: The batch as the encoder reads it, (N, D).
    rows: Tensor


def losses(dictionary: SparseDictionary, x: Tensor, y: Tensor, variance: Tensor) -> Losses:
    """x, y (N, D): what is read, and what is to be written; variance: the mean squared distance of y from its mean."""
    rows = dictionary.read(x)
    penalty = None
    if dictionary.activation == "topk":
        values, chosen = dictionary.top(rows)
        decoded = rows_sum(values, dictionary.decoder, chosen)
        positive = values.detach() > 0
        fired = torch.zeros(len(dictionary.decoder), dtype=torch.bool, device=x.device)
        fired[chosen[positive]] = True
        active = positive.sum() / len(x)
    else:
        codes = dictionary.codes(rows)
        decoded = codes @ dictionary.decoder
        positive = codes.detach() > 0
        fired, active = positive.any(0), positive.sum() / len(x)
        penalty = _penalty(dictionary, rows, codes, y, variance)
    wrong = dictionary.written(decoded, rows) - y
    error = wrong.square().sum(-1).mean() / variance
    return Losses(error, penalty, active, fired, -wrong.detach(), rows)


def _penalty(dictionary: SparseDictionary, rows: Tensor, codes: Tensor, y: Tensor, variance: Tensor) -> Tensor | None:
    usual = (dictionary.k * rows.shape[1]) ** 0.5
    if dictionary.activation == "relu":
        return codes.sum(-1).mean() / usual
    if dictionary.activation == "jumprelu":
        pre = dictionary.pre(rows)
        return step(pre, dictionary.threshold, dictionary.bandwidth).sum(-1).mean() / dictionary.k
    if dictionary.activation == "gated":
        return F.relu(dictionary.pre(rows)).sum(-1).mean() / usual
    return None


def gate_error(dictionary: SparseDictionary, rows: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    """For "gated": the error of the gate's positive pre-activations, through a decoder that does not learn from it."""
    decoded = F.relu(dictionary.pre(rows)) @ dictionary.decoder.detach() + dictionary.bias.detach()
    if dictionary.skip is not None:
        decoded = decoded + F.linear(rows, dictionary.skip.detach())
    return (decoded / dictionary.output_scale - y).square().sum(-1).mean() / variance


def revival(dictionary: SparseDictionary, found: Losses, dead: Tensor) -> Tensor:
    """The error of dead features (int64 (M,), M > 0) on what is left over. They are not rectified: all get a slope."""
    centred = dictionary.centre(found.rows)
    with torch.no_grad():
        pre = F.linear(centred, dictionary.encoder.weight[dead], dictionary.encoder.bias[dead])
        count = min(len(dead), max(1, centred.shape[1] // 2))
        chosen = dead[largest(pre, count)[1]]
    decoded = rows_sum(dictionary.pre_at(centred, chosen), dictionary.decoder, chosen) / dictionary.output_scale
    size = found.left.square().sum(-1).mean().clamp_min(1e-30)
    return (decoded - found.left).square().sum(-1).mean() / size
