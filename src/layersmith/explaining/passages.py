"""Passages for surveys that ask a language model: whole rows of text, whether it foretells the next token, how well."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.errors import UserError
from layersmith.explaining.survey import Subject
from layersmith.measuring.divergence import main_output, run


def unpadded(subject: Subject) -> list[Tensor]:
    """Rows (T,) of the judge batches without padding; none where the model does not read ids alone."""
    rows: list[Tensor] = []
    for batch in subject.judge:
        ids, mask = batch.get("input_ids"), batch.get("attention_mask")
        if ids is None or "decoder_input_ids" in batch:
            break
        whole = torch.ones(len(ids), dtype=torch.bool, device=ids.device) if mask is None else mask.bool().all(1)
        rows += list(ids[whole])
    return rows


def check_foretells(subject: Subject, ids: Tensor, what: str) -> None:
    """UserError unless it answers with a distribution over tokens at every position, from those before it alone."""
    logits = logits_of(subject, ids[None])
    known = logits.shape[:2] == (1, len(ids)) and logits.shape[-1] > int(ids.max())
    if known:
        other = ids.clone()
        other[-1] = ids[0] if ids[-1] != ids[0] else (ids[0] + 1) % logits.shape[-1]
        known = torch.allclose(logits_of(subject, other[None])[0, :-1], logits[0, :-1], atol=1e-3, rtol=1e-3)
    if not known:
        raise UserError(f"{what} need a model that foretells the next token; this one does not.")


def logits_of(subject: Subject, ids: Tensor) -> Tensor:
    """ids (B, T) without padding -> (B, T, V) in float32."""
    with torch.no_grad():
        return main_output(run(subject.model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})).float()


def text_loss(model: Any, batches: list[dict[str, Tensor]]) -> Tensor:
    """Mean cross entropy of the next token, in nats, over the real tokens of all batches."""
    losses, counts = [], []
    for batch in batches:
        logits, ids = main_output(run(model, batch))[:, :-1].float(), batch["input_ids"][:, 1:]
        lost = F.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none")
        real = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))[:, 1:].flatten().to(lost.dtype)
        losses.append((lost * real).sum())
        counts.append(real.sum())
    return torch.stack(losses).sum() / torch.stack(counts).sum().clamp_min(1.0)
