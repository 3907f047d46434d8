"""How well a model predicts text and how far it is from another one: one pass over batches, nothing kept."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.measuring.divergence import Batch, Divergence, main_output, real_positions, real_rows, rows_at_once, run
from layersmith.measuring.inputs import is_causal_lm, placement


@dataclass(frozen=True)
class Quality:
    """What one pass found. A measure that does not exist for the model or was not asked for is None.

    tokens           real tokens seen (or frames, pixels, classified pictures: positions of the output)
    divergence       of the model from the original
    divergence_kind  "kl" (nats per token) or "relative_squared_error" (without classes or tokens)
    agreement        share of tokens with the same most likely next token
    cosine_distance  of the embeddings or the last hidden state (without classes or tokens)
    perplexity       of the model on the text (models that predict the next token; not encoder-decoders)
    bits_per_byte    the same as code length per byte of text
    """

    tokens: int
    divergence: float | None = None
    divergence_kind: str | None = None
    agreement: float | None = None
    cosine_distance: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def quality(
    model: nn.Module,
    batches: Iterable[Batch],
    against: nn.Module | None = None,
    token_bytes: Tensor | None = None,
) -> Quality:
    """Measure a model on batches, and its divergence from `against` (the original) when given.

    batches      keyword arguments of the models: "input_ids" (B, T) and, with padding, "attention_mask" (B, T);
                 "pixel_values" (B, C, H, W); "input_features" (B, bins, frames); ... (see `data.examples.Reader`)
    token_bytes  (vocabulary,) bytes of text each token stands for (see `measure.token_bytes`), for bits per byte

    Raises UserError for a model that yields NaN or infinity, and when no batch holds a real token.
    """
    device, _ = placement(model)
    distance, text, tokens = Divergence(), TextLoss(), 0
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        output, mask = run(model, inputs), real_positions(inputs)
        tokens += len(real_rows(main_output(output), mask))
        if against is not None:
            distance.add(run(against, inputs), output, mask)
        if is_causal_lm(model):
            text.add(output.logits, inputs["input_ids"], mask, token_bytes)
    if tokens == 0:
        raise UserError("There is nothing to measure on: no batch holds a real token.")
    compared = against is not None
    return Quality(
        tokens=tokens,
        divergence=distance.value if compared else None,
        divergence_kind=distance.kind if compared else None,
        agreement=distance.agreement if compared else None,
        cosine_distance=distance.cosine_distance if compared else None,
        perplexity=text.perplexity,
        bits_per_byte=text.bits_per_byte,
    )


class TextLoss:
    """Next-token loss of logits on the text itself, summed over as many batches as are added."""

    def __init__(self) -> None:
        self._nats = 0.0
        self._tokens = self._bytes = 0

    @torch.no_grad()
    def add(self, logits: Tensor, ids: Tensor, mask: Tensor | None = None, token_bytes: Tensor | None = None) -> None:
        """Add one batch: logits (B, T, V) and the ids (B, T) they were computed on."""
        mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        pairs = mask[:, :-1] & mask[:, 1:]  # a real token that follows a real token
        scores, targets = logits[:, :-1][pairs], ids[:, 1:][pairs]
        rows = rows_at_once(scores)
        for some, target in zip(scores.split(rows), targets.split(rows), strict=True):
            self._nats += float(F.cross_entropy(some.float(), target, reduction="none").double().sum())
        self._tokens += len(targets)
        if token_bytes is not None:
            self._bytes += int(token_bytes.to(targets.device)[targets].sum())

    @property
    def perplexity(self) -> float | None:
        # exp overflows a float beyond 709: a model that bad is reported as 1e304, which JSON can hold.
        return math.exp(min(self._nats / self._tokens, 700.0)) if self._tokens else None

    @property
    def bits_per_byte(self) -> float | None:
        return self._nats / math.log(2) / self._bytes if self._bytes else None
