"""The data of a run: batches to fit to, and others, from the held-out split, to judge on. None is in both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from layersmith.anatomy.limits import longest_input
from layersmith.data.examples import Reader
from layersmith.errors import UserError

#: Tokens of a row at most, and in a batch about.
LENGTH, PER_BATCH = 256, 1024
#: Real tokens of text below which a purpose says nothing.
LEAST = 128


@dataclass(frozen=True)
class Texts:
    """Batches (keyword arguments of the model, on its device). `facts` says what was read, for the result file."""

    fit: list[dict[str, Tensor]]
    judge: list[dict[str, Tensor]]
    facts: dict[str, Any]


def read(model: Any, tokenizer: Any, data: str, tokens: int, seed: int, text_column: str | None = None) -> Texts:
    """About `tokens` tokens to fit to and a quarter as many to judge on. Raises UserError where there are too few."""
    length = min(LENGTH, longest_input(model) or LENGTH)
    reader = Reader(model, tokenizer, data, length=length, text_column=text_column, seed=seed)
    batches: dict[str, list[dict[str, Tensor]]] = {}
    facts: dict[str, Any] = {}
    for purpose, split, wanted in (("judge", "heldout", tokens // 4), ("fit", "calibration", tokens)):
        examples = reader.read(split, wanted)
        held = sum(example.tokens for example in examples)
        if held < (min(LEAST, wanted) if reader.main == "input_ids" else 1):
            raise UserError(
                f"{data!r} holds too little distinct data: {held:,} tokens to {purpose} on, where {wanted:,} are asked "
                f"for and at least {LEAST} needed. Give more text, or 'stdlib'."
            )
        batches[purpose] = reader.batched(examples, PER_BATCH)
        facts[f"{purpose}_tokens"] = held
    return Texts(batches["fit"], batches["judge"], facts | reader.facts)
