"""Tokens of text: documents in, rows of token ids out, the same for the same seed, and no row twice.

`windows` serves causal language models (a running text cut into equal windows, each with the beginning-of-text token
where the tokenizer puts one first); `paragraphs` serves encoders (one paragraph per row, with the tokenizer's special
tokens). Both leave out rows that are in `seen` and add their own to it, so that text that repeats is used once.
"""

import hashlib
import re
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layersmith.errors import UserError

TEXTS_AT_ONCE = 256  # a tokenizer's own records take ~100 bytes a token: never hold them for the whole text

Seen = set[bytes]


def windows(
    documents: list[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int,
    seed: int = 0,
    seen: Seen | None = None,
) -> Tensor:
    """A random sample, without replacement, of up to `count` distinct windows of running text: (found, length), int64.

    The documents are joined with the tokenizer's end-of-text token between them (with nothing, where it has none)
    and cut into windows that do not overlap; a last piece shorter than a window is left out. Where the tokenizer
    begins a text with its beginning-of-text token, so does every window, once.

    Raises:
        UserError: no window can have this length, or none is wanted.
    """
    first = beginning(tokenizer)
    room = length - len(first)
    if room < 1 or count < 1:
        raise UserError(
            f"A window needs at least one token of text and a sample one window; got length={length}, count={count}."
        )
    text = _running(documents, tokenizer)
    starts = _starts(text, room, first)
    seen = set() if seen is None else seen
    found: list[Tensor] = []
    for index in shuffled(len(starts), seed):
        piece = text[starts[index] : starts[index] + room]
        if len(found) == count:
            break
        if is_new(piece, seen):
            found.append(torch.cat([torch.tensor(first, dtype=torch.long), piece]))
    return torch.stack(found) if found else torch.empty(0, length, dtype=torch.long)


def paragraphs(
    documents: list[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    tokens: int,
    seed: int = 0,
    seen: Seen | None = None,
) -> list[Tensor]:
    """Distinct paragraphs in random order, as many as hold `tokens` tokens: rows of at most `length` ids, int64.

    A paragraph ends at a blank line; no row mixes two. Every row carries the tokenizer's special tokens. A paragraph
    longer than a row goes on in the next one (with a tokenizer written in Python: is cut).
    """
    around = tokenizer.num_special_tokens_to_add()
    if length <= around or tokens < 1:
        raise UserError(
            f"A row needs room for a token of text beside {around} special ones; got length={length}, tokens={tokens}."
        )
    texts = [part.strip() for document in documents for part in re.split(r"\n\s*\n", document) if part.strip()]
    order = shuffled(len(texts), seed)
    seen = set() if seen is None else seen
    found: list[Tensor] = []
    taken = 0
    for start in range(0, len(order), TEXTS_AT_ONCE):
        some = [texts[index] for index in order[start : start + TEXTS_AT_ONCE]]
        goes_on = bool(getattr(tokenizer, "is_fast", False))
        rows = tokenizer(some, truncation=True, max_length=length, return_overflowing_tokens=goes_on, verbose=False)
        for ids in rows["input_ids"]:
            row = torch.tensor(ids, dtype=torch.long)
            if taken < tokens and is_new(row, seen):
                found.append(row)
                taken += len(row)
        if taken >= tokens:
            break
    return found


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The beginning-of-text token, where the tokenizer puts it first: what a model saw at the start of every text."""
    bos = tokenizer.bos_token_id
    return [bos] if bos is not None and tokenizer("a")["input_ids"][:1] == [bos] else []


def vocabulary(model: nn.Module) -> int | None:
    """How many token ids the model has a row for; a tokenizer may have more. None for a model without token ids."""
    table: Any = None
    with suppress(NotImplementedError, AttributeError):
        table = model.get_input_embeddings()  # type: ignore[operator]
    rows = getattr(table, "num_embeddings", None)
    if rows is None and hasattr(model, "config"):
        rows = getattr(model.config.get_text_config(), "vocab_size", None)  # type: ignore[union-attr, operator]
    return rows if isinstance(rows, int) else None


def check_vocabulary(model: nn.Module, tokenizer: PreTrainedTokenizerBase, rows: list[Tensor]) -> None:
    """A UserError when a token id lies beyond the model's embedding: the tokenizer is another model's."""
    size = vocabulary(model)
    highest = max((int(row.max()) for row in rows if row.numel()), default=-1)
    if size is not None and highest >= size:
        raise UserError(
            f"The tokenizer gives this text the token id {highest} ({tokenizer.convert_ids_to_tokens(highest)!r}), but "
            f"the model's embedding has {size:,} rows, for ids up to {size - 1}. The tokenizer (of {len(tokenizer):,} "
            "tokens) is not this model's, or tokens were added to it and the model was never resized. Use the model's "
            "own tokenizer, or call model.resize_token_embeddings(len(tokenizer)), train it, and save it again."
        )


def _running(documents: list[str], tokenizer: PreTrainedTokenizerBase) -> Tensor:
    between = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    parts: list[Tensor] = []
    for start in range(0, len(documents), TEXTS_AT_ONCE):
        some = documents[start : start + TEXTS_AT_ONCE]
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            parts.append(torch.tensor(between + ids if parts else ids, dtype=torch.long))
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)


def _starts(text: Tensor, room: int, first: list[int]) -> list[int]:
    """Where windows begin. A text that itself holds the beginning-of-text token must not begin a window with it."""
    bos = set((text == first[0]).nonzero().flatten().tolist()) if first else set()
    starts: list[int] = []
    place = 0
    while True:
        while place in bos:
            place += 1
        if place + room > len(text):
            return starts
        starts.append(place)
        place += room


def is_new(row: Tensor, seen: Seen) -> bool:
    key = hashlib.blake2b(row.numpy().tobytes(), digest_size=16).digest()
    if key in seen:
        return False
    seen.add(key)
    return True


def shuffled(population: int, seed: int) -> list[int]:
    return torch.randperm(population, generator=torch.Generator().manual_seed(seed), device="cpu").tolist()
