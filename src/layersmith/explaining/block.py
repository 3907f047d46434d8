"""One block of a model run over a whole text: what enters and leaves its sublayers, and what it hands on."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.anatomy.observe import observe
from layersmith.anatomy.running import MODEL_FAILURES, evaluating, weighing
from layersmith.explaining.capture import Rows, joined, rows_of
from layersmith.explaining.measures.sinks import attention_weights, received
from layersmith.explaining.survey import Subject
from layersmith.measuring.divergence import real_positions

#: What enters a block, batch by batch; None where the model has to be run from its start.
Entering = list[Tensor | None]


@dataclass
class BlockRows:
    """What one block did on the fit batches.

    rows      site -> inputs, outputs (N, D) and ids (N,) at real tokens
    latent    feed-forward -> (N, d_hidden), what enters its last matrix
    received  mixer -> for each call (B, T), the attention that each key receives (see `measures.sinks`)
    leaving   (B, T, D) for each batch
    """

    rows: dict[str, Rows] = field(default_factory=dict)
    latent: dict[str, Tensor] = field(default_factory=dict)
    received: dict[str, list[Tensor]] = field(default_factory=dict)
    leaving: Entering = field(default_factory=list)


def entering(subject: Subject, index: int) -> Entering:
    """What enters block `index` on the fit batches, from a run of the model."""
    if not subject.replay.exact:
        return [None] * len(subject.fit)
    with evaluating(subject.model), weighing(subject.model):  # as in `look`: another kernel rounds otherwise
        return [subject.replay.block_inputs(batch)[index] for batch in subject.fit]


def look(subject: Subject, index: int, sites: list[Site], into: Entering) -> BlockRows:
    """Run block `index` on all fit batches and keep what its sites read and wrote."""
    hidden_in = {site.name: _last_matrix(subject, site) for site in sites if site.kind == "ffn"}
    paths = {path for site in sites for path in site.modules} | {path for path in hidden_in.values() if path}
    parts: dict[str, list[Rows]] = defaultdict(list)
    latent: dict[str, list[Tensor]] = defaultdict(list)
    seen = BlockRows(received={site.name: [] for site in sites if site.kind == "mixer"})
    for batch, hidden in zip(subject.fit, into, strict=True):
        with evaluating(subject.model), weighing(subject.model):
            leaving, calls = subject.replay.capture(index, hidden, batch, sorted(paths))
        seen.leaving.append(leaving if subject.replay.exact else None)
        for site in sites:
            for first, last in zip(calls[site.modules[0]], calls[site.modules[-1]], strict=True):
                parts[site.name].append(rows_of(site, batch, first.input, last.hidden))
                if site.kind == "mixer":
                    weights = attention_weights(first.output)
                    if weights is not None and weights.shape[2] == weights.shape[3]:
                        seen.received[site.name].append(received(weights, _real(batch, weights)))
            path = hidden_in.get(site.name)
            if path is not None:
                latent[site.name] += [rows_of(site, batch, c.input, c.input)["inputs"] for c in calls[path]]
    seen.rows = {name: joined(found) for name, found in parts.items()}
    seen.latent = {name: torch.cat(found) for name, found in latent.items()}
    return seen


def _last_matrix(subject: Subject, site: Site) -> str | None:
    """Path of the matrix that ends a feed-forward, if it ends in one: what enters it is the hidden layer."""
    try:
        matrices = observe(subject.model, site).matrices
    except MODEL_FAILURES:
        return None  # a sublayer that cannot be watched alone has no hidden layer to speak of
    last = next(reversed(matrices.items()), None)
    return last[0] if last is not None and last[1].rows == site.d_model else None


def _real(batch: dict[str, Tensor], weights: Tensor) -> Tensor | None:
    mask = real_positions(batch)
    if mask is None or mask.shape != (len(weights), weights.shape[2]):
        mask = batch.get("attention_mask")  # an encoder's side of a pair
    return mask.bool() if mask is not None and mask.shape == (len(weights), weights.shape[2]) else None
