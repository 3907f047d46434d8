"""Strings of different lengths in one batch: pieces packed to the left, padded at the end, and what is asked of them.

A task that asks for an answer after a string gives the pieces of whole rows, question and answer. What goes into the
model is the row without its last token; the target at position t is token t + 1 where that is part of the answer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.racing.task import IGNORED, Batch, Split


def lengths(generator: torch.Generator, size: int, longest: int, split: Split, stretch: int = 2) -> Tensor:
    """How long each string is, uniformly: 1 to `longest`, or for "longer" up to `stretch` times as long. (size,)"""
    low, high = (longest + 1, stretch * longest) if split == "longer" else (1, longest)
    return torch.randint(low, high + 1, (size,), generator=generator, device="cpu")


def room(longest: int, split: Split, stretch: int = 2) -> int:
    """The length that strings of this split may have."""
    return stretch * longest if split == "longer" else longest


def kept(values: Tensor, count: Tensor, pad: int) -> Tensor:
    """The first count[b] values of each row (B, n); `pad` after them."""
    return torch.where(torch.arange(values.shape[1]) < count[:, None], values, pad)


def filled(size: int, token: int) -> Tensor:
    """A piece of one token in each of `size` rows."""
    return torch.full((size, 1), token)


def packed(question: list[Tensor], answer: Tensor, pad: int) -> Batch:
    """A causal batch from the pieces of the question and the answer, each (B, n) and padded with `pad`."""
    asked = torch.cat(question, 1)
    row = torch.cat([asked, answer], 1)
    order = (row == pad).to(torch.uint8).argsort(dim=1, stable=True)  # what is there first, in the order it was in
    row = row.gather(1, order)
    is_answer = (order >= asked.shape[1]) & (row != pad)
    return Batch(row[:, :-1].contiguous(), torch.where(is_answer, row, IGNORED)[:, 1:].contiguous())


def whole_answers(outputs: Tensor, batch: Batch) -> float:
    """Share of rows in which everything asked is right. outputs: logits (B, T, n_outputs)"""
    right = (outputs.argmax(-1) == batch.targets) | (batch.targets == IGNORED)
    return float(right.all(1).double().mean())
