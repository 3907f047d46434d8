"""Token windows: documents in, one rectangular batch of token ids out, the same for the same seed.

`windows` serves causal language models (a running text cut into equal windows, nothing padded); `padded_windows`
serves encoders (one paragraph per row, with the tokenizer's special tokens, padded and masked).
"""

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from layersmith.errors import UserError

DOCUMENTS_AT_ONCE = 256  # a tokenizer's own records take ~100 bytes a token: never hold them for the whole text


@dataclass(frozen=True)
class Windows:
    """A sample of text as token ids.

    Attributes:
        input_ids: (count, length), int64.
        attention_mask: (count, length), int64, 1 on text and 0 on padding; None where nothing is padded.
    """

    input_ids: Tensor
    attention_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.input_ids)


def windows(
    documents: list[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int,
    seed: int = 0,
    at_least: int | None = None,
) -> Windows:
    """A random sample, without replacement, of `count` windows of `length` tokens of running text.

    The documents are joined with the tokenizer's end-of-text token between them (with nothing, where it has none)
    and cut into windows that do not overlap; a last piece shorter than a window is left out. A text with fewer
    windows gives what it has, down to `at_least` (default: `count`).

    Raises:
        UserError: the text holds fewer windows than asked for.
    """
    _check_sizes(length, count)
    between = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    parts: list[Tensor] = []
    for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
        some = documents[start : start + DOCUMENTS_AT_ONCE]
        for ids in tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"]:
            parts.append(torch.tensor(between + ids if parts else ids, dtype=torch.long))
    tokens = torch.cat(parts) if parts else torch.empty(0, dtype=torch.long)
    whole = len(tokens) // length
    needed = min(count, count if at_least is None else at_least)
    if whole < needed:
        raise UserError(
            f"The text is too short: {len(documents)} document(s) make {len(tokens):,} tokens, which is {whole} "
            f"window(s) of {length}, and {needed} are needed ({needed * length:,} tokens). Give more text, shorter "
            "windows or fewer of them."
        )
    return Windows(tokens[: whole * length].view(whole, length)[_sample(whole, min(count, whole), seed)])


def padded_windows(
    documents: list[str],
    tokenizer: PreTrainedTokenizerBase,
    length: int,
    count: int,
    seed: int = 0,
    at_least: int | None = None,
) -> Windows:
    """A random sample, without replacement, of `count` paragraphs, each a row of `length` tokens.

    A paragraph ends at a blank line. Every row carries the tokenizer's special tokens, is cut at `length` and
    padded up to it. A text with fewer paragraphs gives what it has, down to `at_least` (default: `count`).

    Raises:
        UserError: fewer paragraphs than asked for, or a tokenizer that cannot pad.
    """
    _check_sizes(length, count)
    if tokenizer.pad_token_id is None:
        raise UserError("The tokenizer has no padding token, so rows of different lengths cannot stand in one batch.")
    paragraphs = [part.strip() for document in documents for part in re.split(r"\n\s*\n", document) if part.strip()]
    needed = min(count, count if at_least is None else at_least)
    if len(paragraphs) < needed:
        raise UserError(
            f"The text is too short: {len(documents)} document(s) hold {len(paragraphs)} paragraph(s), and {needed} "
            "are needed. Give more text or ask for fewer rows."
        )
    rows = [paragraphs[index] for index in _sample(len(paragraphs), min(count, len(paragraphs)), seed).tolist()]
    batch = tokenizer(rows, truncation=True, max_length=length, padding="max_length", return_tensors="pt")
    return Windows(batch["input_ids"], batch["attention_mask"])


def _check_sizes(length: int, count: int) -> None:
    if length < 1 or count < 1:
        raise UserError(
            f"A window needs at least one token and a sample one window; got length={length}, count={count}."
        )


def _sample(population: int, count: int, seed: int) -> Tensor:
    """`count` distinct indices below `population`, in random order."""
    return torch.randperm(population, generator=torch.Generator().manual_seed(seed), device="cpu")[:count]
