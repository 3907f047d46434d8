"""How far one model's outputs are from another's, summed up batch by batch.

Models with logits: mean token KL(teacher || student) in nats, and the share of tokens whose most likely next token is
the same. Models without (encoders): sum ||h_student - h_teacher||^2 / sum ||h_teacher||^2 of the last hidden state, and
the mean cosine distance. Padding never counts. Log-probabilities are float32, sums float64.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

#: Rows of logits compared at once: bounds the float32 copies to a few times CHUNK x vocabulary.
CHUNK = 512


class Divergence:
    """Running totals. `value` is the KL, or the relative squared error where there are no logits."""

    def __init__(self) -> None:
        self.tokens = 0
        self._kl = self._agreed = 0.0
        self._error = self._norm = self._cosine = 0.0
        self.kind = "kl"

    def add(self, teacher: Any, student: Any, mask: Tensor | None = None) -> None:
        """Add one batch of model outputs (Hugging Face output objects, or plain tensors of hidden states).

        mask  (B, T), nonzero at real tokens; None when all are real
        """
        expected, found = main_output(teacher), main_output(student)
        logits = getattr(teacher, "logits", None) is not None
        self.kind = "kl" if logits else "relative_squared_error"
        expected, found = _rows(expected, mask), _rows(found, mask)
        self.tokens += len(expected)
        for p, q in zip(expected.split(CHUNK), found.split(CHUNK), strict=True):
            if logits:
                self._kl += float(token_kl(p, q).double().sum())
                self._agreed += int((p.argmax(-1) == q.argmax(-1)).sum())
            else:
                self._error += float((p.double() - q.double()).square().sum())
                self._norm += float(p.double().square().sum())
                self._cosine += float((1 - F.cosine_similarity(p.float(), q.float(), dim=-1)).double().sum())

    @property
    def value(self) -> float:
        """Nats per token, or the relative squared error."""
        return self._kl / max(1, self.tokens) if self.kind == "kl" else self._error / max(self._norm, 1e-30)

    @property
    def agreement(self) -> float | None:
        """Share of tokens with the same most likely next token; None without logits."""
        return self._agreed / max(1, self.tokens) if self.kind == "kl" else None

    @property
    def cosine_distance(self) -> float | None:
        """Mean cosine distance of the last hidden state; None where there are logits."""
        return None if self.kind == "kl" else self._cosine / max(1, self.tokens)


def token_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats of logits (..., V) -> (...), in float32."""
    p, q = F.log_softmax(teacher.float(), dim=-1), F.log_softmax(student.float(), dim=-1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(dim=-1)


def main_output(out: Any) -> Tensor:
    """The logits of a model output, else its last hidden state, else the tensor itself."""
    if isinstance(out, Tensor):
        return out
    if getattr(out, "logits", None) is not None:
        return out.logits
    return out.last_hidden_state


def _rows(x: Tensor, mask: Tensor | None) -> Tensor:
    if x.dim() == 2:  # one vector per sequence: a classifier's logits
        return x
    if mask is None or mask.shape != x.shape[:2]:
        return x.flatten(0, 1)
    return x[mask.bool()]


@torch.no_grad()
def divergence(teacher: Any, student: Any, batches: list[dict[str, Tensor]]) -> Divergence:
    """Run both models over batches and compare."""
    total = Divergence()
    for batch in batches:
        total.add(teacher(**batch), student(**batch), batch.get("attention_mask"))
    return total
