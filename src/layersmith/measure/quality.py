"""How far a model is from another one, and how well it predicts text: one pass over batches, nothing kept.

For outputs with logits (teacher = the original, student = the changed one), per real token t:

    KL_t = sum_v p_teacher(v) * (log p_teacher(v) - log p_student(v))        in nats, averaged over tokens
    agreement = share of tokens whose most likely next token is the same

For encoders, on the last hidden state h: sum ||h_student - h_teacher||^2 / sum ||h_teacher||^2, and the mean cosine
distance per token. Padding never counts. Log-probabilities are taken in float32, sums are kept in float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.measure.inputs import can_generate, placement

#: Token positions whose logits are compared at once: bounds the float32 copies to 3 * CHUNK * vocabulary.
CHUNK = 256

KL, RELATIVE_SQUARED_ERROR = "kl", "relative_squared_error"

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Quality:
    """What one pass found. A measure that does not exist for the model or was not asked for is None.

    tokens           real tokens seen
    divergence       of the student from the teacher
    divergence_kind  "kl" (nats per token) or "relative_squared_error" (encoders)
    agreement        share of tokens with the same most likely next token
    cosine_distance  of the last hidden state (encoders)
    perplexity       of the student on the text (models that predict the next token; not encoder-decoders)
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
    """Measure a model on batches, and its distance from `against` when given.

    batches      keyword arguments of the models: "input_ids" (B, T) and, with padding, "attention_mask" (B, T), ...
    token_bytes  (vocabulary,) bytes of text each token stands for (`measure.token_bytes`); None leaves out bits per byte

    Raises UserError for a model that yields NaN or infinity, and when there is no batch.
    """
    device, _ = placement(model)
    distance, text, tokens = Divergence(), TextLoss(), 0
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        output, mask = _run(model, inputs), real_positions(inputs)
        tokens += len(_real(comparable(output)[0], mask))
        if against is not None:
            distance.add(_run(against, inputs), output, mask)
        if can_generate(model) and not model.config.is_encoder_decoder:
            text.add(output.logits, inputs["input_ids"], mask, token_bytes)
    if tokens == 0:
        raise UserError("There is nothing to measure on: no batch holds a real token.")
    return Quality(tokens, **(distance.to_json() if against is not None else {}), **text.to_json())


@torch.no_grad()
def divergence(teacher: nn.Module, student: nn.Module, batches: Iterable[Batch]) -> float:
    """The student's divergence from the teacher over batches: KL in nats, or relative squared error for encoders."""
    device, _ = placement(teacher)
    distance = Divergence()
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        distance.add(_run(teacher, inputs), _run(student, inputs), real_positions(inputs))
    return distance.value


class Divergence:
    """The distance of a student's outputs from a teacher's, summed over as many batches as are added."""

    def __init__(self) -> None:
        self.kind = ""
        self._count = self._agreed = 0
        self._kl = self._squared_error = self._squared_norm = self._cosine = 0.0

    @torch.no_grad()
    def add(self, teacher: Any, student: Any, mask: Tensor | None = None) -> None:
        """Add one batch: two model outputs (or hidden-state tensors) and the mask (B, T) of their real tokens."""
        theirs, is_logits = comparable(teacher)
        ours, _ = comparable(student)
        if ours.shape != theirs.shape:
            raise UserError(
                f"The two models' outputs cannot be compared: they have shapes {tuple(ours.shape)} and "
                f"{tuple(theirs.shape)} on the same inputs."
            )
        self.kind = KL if is_logits else RELATIVE_SQUARED_ERROR
        add = self._add_logits if is_logits else self._add_hidden
        for a, b in _chunks(_real(theirs, mask), _real(ours, mask)):
            add(a, b)
            self._count += len(a)

    @property
    def value(self) -> float:
        """Mean KL per token, or relative squared error: see `kind`."""
        self._require_something()
        if self.kind == KL:
            return self._kl / self._count
        if self._squared_norm == 0.0:
            raise UserError("The original's hidden states are all zero, so no error is relative to them.")
        return self._squared_error / self._squared_norm

    @property
    def agreement(self) -> float | None:
        """Share of tokens with the same most likely next token; None for hidden states."""
        self._require_something()
        return self._agreed / self._count if self.kind == KL else None

    @property
    def cosine_distance(self) -> float | None:
        """Mean cosine distance of hidden states; None for logits."""
        self._require_something()
        return self._cosine / self._count if self.kind == RELATIVE_SQUARED_ERROR else None

    def to_json(self) -> dict[str, Any]:
        return {
            "divergence": self.value,
            "divergence_kind": self.kind,
            "agreement": self.agreement,
            "cosine_distance": self.cosine_distance,
        }

    def _add_logits(self, teacher: Tensor, student: Tensor) -> None:
        self._kl += float(token_kl(teacher, student).double().sum())
        self._agreed += int((student.argmax(-1) == teacher.argmax(-1)).sum())

    def _add_hidden(self, teacher: Tensor, student: Tensor) -> None:
        teacher, student = teacher.double(), student.double()
        self._squared_error += float((student - teacher).square().sum())
        self._squared_norm += float(teacher.square().sum())
        self._cosine += float((1 - F.cosine_similarity(student, teacher, dim=-1)).sum())

    def _require_something(self) -> None:
        if not self._count:
            raise UserError("There is nothing to compare: no batch holds a real token.")


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
        for scores, target in _chunks(logits[:, :-1][pairs], ids[:, 1:][pairs]):
            self._nats += float(F.cross_entropy(scores.float(), target, reduction="none").double().sum())
            self._tokens += len(target)
            if token_bytes is not None:
                self._bytes += int(token_bytes.to(target.device)[target].sum())

    def to_json(self) -> dict[str, float | None]:
        # exp overflows a float beyond 709: a model that bad is reported as 1e304, which JSON can hold.
        return {
            "perplexity": math.exp(min(self._nats / self._tokens, 700.0)) if self._tokens else None,
            "bits_per_byte": self._nats / math.log(2) / self._bytes if self._bytes else None,
        }


def token_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats of logits (..., V) -> (...), in float32."""
    p, q = F.log_softmax(teacher.float(), dim=-1), F.log_softmax(student.float(), dim=-1)
    return F.kl_div(q, p, reduction="none", log_target=True).sum(dim=-1)


def comparable(output: Any) -> tuple[Tensor, bool]:
    """Of a model's output: logits (B, T, V) and True, or the last hidden state (B, T, D) and False.

    A classifier's logits (B, V) become one position per sequence; one logit alone is a regression, no distribution.

    Raises UserError for NaN or infinity, and for an output with neither.
    """
    if isinstance(output, Tensor):
        found, is_logits = output, False
    elif "logits" in output:
        found = output["logits"] if output["logits"].dim() > 2 else output["logits"].unsqueeze(1)
        is_logits = found.shape[-1] > 1
    elif "last_hidden_state" in output:
        found, is_logits = output["last_hidden_state"], False
    else:
        raise UserError(
            f"The model returns neither 'logits' nor 'last_hidden_state' but {', '.join(output)}, so there is nothing "
            f"to compare."
        )
    if not torch.isfinite(found).all():
        raise UserError(
            "The model yields NaN or infinite outputs on this data, so nothing can be measured. Check its weights and "
            "its dtype (float16 overflows in many models: try bfloat16 or float32)."
        )
    return found, is_logits


def real_positions(inputs: Batch) -> Tensor | None:
    """The mask (B, T) of the output's real positions among a model's inputs, if there is one."""
    return inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")


def _run(model: nn.Module, inputs: Batch) -> Any:
    return model(**inputs, use_cache=False) if can_generate(model) else model(**inputs)


def _real(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, ·) -> (real tokens, ·). A classifier's single position per sequence has no mask of its own."""
    if mask is None or mask.shape != values.shape[:2]:
        return values.flatten(0, 1)
    return values[mask.bool()]


def _chunks(a: Tensor, b: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(a.split(CHUNK), b.split(CHUNK), strict=True)
