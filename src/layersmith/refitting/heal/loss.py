"""What healing minimises, and its gradient, added up over pieces of a batch so that memory stays bounded.

    loss = KL(teacher || student) of the next tokens + sum over blocks of 1 - cos(h_student, h_teacher)

both as means over real tokens. A model without logits has the relative squared error of its last hidden state instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.anatomy import Anatomy
from layersmith.errors import UserError
from layersmith.measuring.divergence import is_distribution, main_output, real_positions, real_rows, token_kl

Batch = dict[str, Tensor]

#: Output values (tokens x vocabulary) of one piece of a batch. Gradients of the pieces add up to the batch's; what a
#: piece needs to be differentiated, several times its logits and all its activations, is what bounds memory.
PIECE = 2**24


def add_gradients(
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch,
    rows: int,
    of_student: dict[str, Tensor],
    of_teacher: dict[str, Tensor],
) -> float:
    """Add the batch's gradient to the student's, in pieces of that many sequences; the loss, NaN if it is not finite.

    of_student, of_teacher  what `hidden_states` of each fills
    """
    total, tokens = 0.0, tokens_of(batch)
    for start in range(0, len(next(iter(batch.values()))), rows):
        piece = {name: tensor[start : start + rows] for name, tensor in batch.items()}
        with torch.no_grad():
            expected = teacher(**piece)
        try:
            loss = _loss(student(**piece), expected, of_student, of_teacher, piece)
        except UserError:  # what comparing outputs raises when they are not finite
            return math.nan
        loss = loss * (tokens_of(piece) / tokens)
        if not math.isfinite(loss.item()):
            return math.nan
        loss.backward()
        total += loss.item()
    return total


def _loss(
    out: Any, expected: Any, of_student: dict[str, Tensor], of_teacher: dict[str, Tensor], piece: Batch
) -> Tensor:
    """KL of the logits (or the relative error of what a model without classes yields) + hidden cosines."""
    mask = real_positions(piece)
    target, found = real_rows(main_output(expected), mask).float(), real_rows(main_output(out), mask).float()
    if is_distribution(expected):
        loss = token_kl(target, found).mean()
    else:
        loss = (found - target).square().sum() / target.square().sum()
    for path, theirs in of_teacher.items():
        real = mask if "decoder" in path else piece.get("attention_mask")
        ours, theirs = real_rows(of_student[path], real).float(), real_rows(theirs, real).float()
        loss = loss + (1 - F.cosine_similarity(ours, theirs, dim=-1)).mean()
    return loss


@contextmanager
def hidden_states(model: nn.Module, anatomy: Anatomy) -> Iterator[dict[str, Tensor]]:
    """A dict that holds each block's last output while the context lasts. A block run several times keeps the last."""
    seen: dict[str, Tensor] = {}

    def recorder(path: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            seen[path] = output[0] if isinstance(output, tuple | list) else output

        return record

    paths = [p for stack in anatomy.blocks.values() for p in stack]
    hooks = [model.get_submodule(p).register_forward_hook(recorder(p)) for p in dict.fromkeys(paths)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def tokens_of(batch: Batch) -> int:
    """Real tokens; the inputs of a batch that has none."""
    if "attention_mask" in batch:
        return int(batch["attention_mask"].sum())
    return batch["input_ids"].numel() if "input_ids" in batch else next(iter(batch.values())).shape[0]


@torch.no_grad()
def rows_at_once(teacher: nn.Module, batch: Batch) -> int:
    """How many sequences of a batch make up a piece."""
    one = main_output(teacher(**{name: tensor[:1] for name, tensor in batch.items()}))
    return max(1, PIECE // one.numel())
