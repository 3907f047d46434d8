"""How far one model's outputs are from another's, summed up batch by batch.

Models with logits (teacher = the original, student = the changed one), per position t: a real token, a frame of
sound, a pixel of a segmentation, the one answer of a classifier, or the start and end of an answer in the text:

    KL_t = sum_v p_teacher(v) * (log p_teacher(v) - log p_student(v))        in nats, averaged over tokens
    agreement = share of tokens whose most likely next token is the same

Models without (encoders), on the embeddings or the last hidden state h:

    sum ||h_student - h_teacher||^2 / sum ||h_teacher||^2,  and the mean cosine distance

Padding never counts. Log-probabilities are taken in float32, sums are kept in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.anatomy.running import MODEL_FAILURES
from layersmith.errors import UserError
from layersmith.measuring.inputs import placement, without_cache

#: Values compared at once. Few enough to stay in a processor's cache over the several passes of a comparison: with a
#: vocabulary of 49,152, ten times as fast as 256 rows at once.
BLOCK = 2**19

#: Vectors that stand for a whole text, picture or recording, one per row (CLIP returns two).
EMBEDDINGS = ("text_embeds", "image_embeds", "audio_embeds")
#: What a reader that marks an answer in its text gives to every position, (B, T) each.
SPAN = ("start_logits", "end_logits")

KL, RELATIVE_SQUARED_ERROR = "kl", "relative_squared_error"

Batch = Mapping[str, Tensor]


class Expected:
    """The teacher's outputs on one batch, to be compared with those of many students: what is its alone is done once.

    kind   what a comparison with it is: KL or RELATIVE_SQUARED_ERROR
    rows   at real positions: log-probabilities (tokens, V), or hidden states (tokens, D)
    """

    @torch.no_grad()
    def __init__(self, teacher: Any, mask: Tensor | None = None):
        found = main_output(teacher)
        self.shape, self.mask = found.shape, mask
        self.kind = KL if is_distribution(teacher) else RELATIVE_SQUARED_ERROR
        self.rows = real_rows(found, mask)
        if self.kind == KL:
            blocks = self.rows.split(rows_at_once(self.rows))
            self.rows = torch.cat([F.log_softmax(block.float(), dim=-1) for block in blocks])
            self.likeliest = torch.cat([block.argmax(-1) for block in blocks])


class Divergence:
    """Running totals. `kind` says what `value` is."""

    def __init__(self) -> None:
        self.kind = ""
        self.tokens = 0
        self._kl = self._agreed = 0.0
        self._error = self._norm = self._cosine = 0.0

    @torch.no_grad()
    def add(self, teacher: Any, student: Any, mask: Tensor | None = None) -> None:
        """Add one batch of model outputs (Hugging Face output objects, or plain tensors of hidden states).

        mask  (B, T), nonzero at real tokens; None when all are real
        """
        self.add_to(Expected(teacher, mask), student)

    @torch.no_grad()
    def add_to(self, expected: Expected, student: Any) -> None:
        """The same, with a teacher whose part was done before."""
        found = main_output(student)
        if expected.shape != found.shape:
            raise UserError(
                f"The two models' outputs cannot be compared: they have shapes {tuple(expected.shape)} and "
                f"{tuple(found.shape)} on the same inputs."
            )
        self.kind, ours = expected.kind, real_rows(found, expected.mask)
        rows = rows_at_once(ours)
        for start in range(0, len(ours), rows):
            part = slice(start, start + rows)
            if self.kind == KL:
                self._add_logits(expected.rows[part], expected.likeliest[part], ours[part])
            else:
                self._add_hidden(expected.rows[part], ours[part])
        self.tokens += len(ours)

    @property
    def value(self) -> float:
        """Nats per token ("kl"), or the relative squared error."""
        self._require_tokens()
        if self.kind == KL:
            return self._kl / self.tokens
        if self._norm == 0.0:
            raise UserError("The original's hidden states are all zero, so no error is relative to them.")
        return self._error / self._norm

    @property
    def agreement(self) -> float | None:
        """Share of tokens with the same most likely next token; None without logits."""
        self._require_tokens()
        return self._agreed / self.tokens if self.kind == KL else None

    @property
    def cosine_distance(self) -> float | None:
        """Mean cosine distance of the last hidden state; None where there are logits."""
        self._require_tokens()
        return self._cosine / self.tokens if self.kind == RELATIVE_SQUARED_ERROR else None

    def _add_logits(self, log_p: Tensor, likeliest: Tensor, student: Tensor) -> None:
        self._kl += float(kl_of_logs(log_p, F.log_softmax(student.float(), dim=-1)).double().sum())
        self._agreed += int((student.argmax(-1) == likeliest).sum())

    def _add_hidden(self, teacher: Tensor, student: Tensor) -> None:
        teacher, student = teacher.double(), student.double()
        self._error += float((student - teacher).square().sum())
        self._norm += float(teacher.square().sum())
        self._cosine += float((1 - F.cosine_similarity(student, teacher, dim=-1)).sum())

    def _require_tokens(self) -> None:
        if self.tokens == 0:
            raise UserError("There is nothing to compare: no batch holds a real token.")


@torch.no_grad()
def divergence(teacher: nn.Module, student: nn.Module, batches: Iterable[Batch]) -> Divergence:
    """Run both models over batches (their keyword arguments, on any device) and compare."""
    device, _ = placement(teacher)
    total = Divergence()
    for batch in batches:
        inputs = {name: tensor.to(device) for name, tensor in batch.items()}
        total.add(run(teacher, inputs), run(student, inputs), real_positions(inputs))
    return total


def token_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """KL(teacher || student) in nats of logits (..., V) -> (...), in float32."""
    return kl_of_logs(F.log_softmax(teacher.float(), dim=-1), F.log_softmax(student.float(), dim=-1))


def kl_of_logs(log_p: Tensor, log_q: Tensor) -> Tensor:
    """The same of log-probabilities."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=-1)


def rows_at_once(values: Tensor) -> int:
    """How many rows of (rows, width) make up a block."""
    return max(1, BLOCK // max(1, values.shape[-1]))


def main_output(output: Any) -> Tensor:
    """What a model is judged by: logits (B, T, V), else embeddings (B, n, D), else the last hidden state (B, T, D).

    A classifier's logits (B, V) become one position per row, a segmentation's (B, V, H, W) one per pixel. Where an
    answer is marked in the text, a row has two positions, start and end, and every token is a class (as in the loss
    such models are trained with). A plain tensor stands for itself.

    Raises UserError for NaN or infinity, and for an output with none of these.
    """
    found = output if isinstance(output, Tensor) else _chosen(output)
    # One pass settles it nearly always: a sum is finite only if every value is (or a finite one overflowed).
    if not torch.isfinite(found.sum(dtype=torch.float32)) and not torch.isfinite(found).all():
        raise UserError(
            "The model yields NaN or infinite outputs on this data, so nothing can be measured. Check its weights and "
            "its dtype (float16 overflows in many models: try bfloat16 or float32)."
        )
    return found


def _chosen(output: Any) -> Tensor:
    if _marks_a_span(output):
        return torch.stack([output[name] for name in SPAN], dim=1)
    if "logits" in output:
        logits = output["logits"]
        if logits.dim() == 4:
            return logits.flatten(2).transpose(1, 2)
        return logits if logits.dim() == 3 else logits.unsqueeze(1)
    embeddings = [output[name] for name in EMBEDDINGS if name in output and output[name].dim() == 2]
    if embeddings and len({each.shape for each in embeddings}) == 1:
        return torch.stack(embeddings, dim=1)
    if "last_hidden_state" in output:
        found = output["last_hidden_state"]
        return found.flatten(2).transpose(1, 2) if found.dim() == 4 else found
    raise UserError(
        f"The model returns neither 'logits' nor 'last_hidden_state' nor embeddings but {', '.join(output)}, so there "
        "is nothing to compare."
    )


def is_distribution(output: Any) -> bool:
    """Whether an output is logits over several classes (one logit alone is a regression)."""
    if isinstance(output, Tensor):
        return False
    if _marks_a_span(output):
        return True
    if "logits" not in output:
        return False
    return output["logits"].shape[1 if output["logits"].dim() == 4 else -1] > 1


def _marks_a_span(output: Any) -> bool:
    return all(name in output for name in SPAN)


def real_positions(inputs: Batch) -> Tensor | None:
    """The mask (B, T) of the output's real positions among a model's inputs, if there is one."""
    return inputs.get("decoder_attention_mask" if "decoder_input_ids" in inputs else "attention_mask")


def real_rows(values: Tensor, mask: Tensor | None) -> Tensor:
    """(B, T, ·) -> (real tokens, ·). A classifier's single position per sequence has no mask of its own."""
    if mask is None or mask.shape != values.shape[:2]:
        return values.flatten(0, 1)
    return values[mask.bool()]


def run(model: nn.Module, inputs: Batch) -> Any:
    """The model's output, without a cache."""
    return model(**inputs, **without_cache(model))


@torch.no_grad()
def first_run(model: nn.Module, inputs: Batch) -> Any:
    """`run` on the first batch of all. A model that does not run on what it is fed with is refused in its own words."""
    try:
        return run(model, inputs)
    except UserError:
        raise
    except MODEL_FAILURES as error:
        said = " ".join(str(error).split())[:300]
        raise UserError(
            f"{type(model).__name__} does not run on {', '.join(inputs)}, with which it is fed: "
            f"{type(error).__name__}: {said.rstrip('.')}. Its config may not be the one it was made with."
        ) from error
