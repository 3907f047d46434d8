"""What an encoder-decoder reads and writes: pairs of texts, a text and how it goes on, or what the model itself writes.

Decoder ids are the target's tokens moved one to the right behind the config's start token, as in training.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layersmith.data import tables
from layersmith.data.splits import check_split, share_out
from layersmith.data.windows import TEXTS_AT_ONCE, Seen, is_new, shuffled
from layersmith.errors import UserError

Pair = tuple[Tensor, Tensor]  # ids of the encoder and of the decoder, int64

SHORTEST = 8  # tokens of a text that is worth halving


def read_pairs(source: str, split: str, text_column: str | None = None) -> list[tuple[str, str]] | None:
    """The (source, target) texts of one split of a table; None for any other text, and a table with one text column.

    Pairs with the same source text are never in two splits.
    """
    check_split(split)
    path = Path(source)
    if not path.is_file() or path.suffix.lower() not in tables.TABLES:
        if text_column is not None and "," in text_column:
            raise UserError(
                f"{text_column!r} names the two columns of a table, but {source!r} is none. Give a .jsonl, .json, .csv "
                "or .tsv file of pairs."
            )
        return None
    found = tables.pairs(path, text_column)
    if found is None:
        return None
    distinct = list(dict(found).items())
    shares = share_out([source for source, _ in distinct])
    if shares is None:
        raise UserError(
            f"{source!r} holds {len(distinct)} distinct pair(s) of texts, and each of the splits for fitting, choosing "
            "and healing needs some. Give more."
        )
    return [distinct[index] for index in shares[split]]


def pair_rows(
    texts: list[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    config: Any,
    *,
    length: int,
    tokens: int,
    seed: int,
    seen: Seen,
) -> list[Pair]:
    """Pairs as ids, each side cut at `length`, in random order, until both sides hold `tokens` tokens together."""
    order = shuffled(len(texts), seed)
    found: list[Pair] = []
    taken = 0
    for start in range(0, len(order), TEXTS_AT_ONCE):
        sources, targets = zip(*(texts[index] for index in order[start : start + TEXTS_AT_ONCE]), strict=True)
        read = tokenizer(list(sources), truncation=True, max_length=length)["input_ids"]
        written = tokenizer(text_target=list(targets), truncation=True, max_length=length)["input_ids"]
        for ids, goal in zip(read, written, strict=True):
            row = torch.tensor(ids, dtype=torch.long)
            if taken < tokens and goal and is_new(row, seen):
                found.append((row, moved_right(goal, config)))
                taken += len(ids) + len(goal)
        if taken >= tokens:
            break
    return found


def halved_rows(
    documents: list[str],
    tokenizer: PreTrainedTokenizerBase,
    config: Any,
    *,
    length: int,
    tokens: int,
    seed: int,
    seen: Seen,
) -> list[Pair]:
    """Pieces of at most `length` tokens of one document each: the encoder reads the first half, the decoder goes on.

    Both halves stand between the tokenizer's special tokens.
    """
    before, after = _specials(tokenizer)
    room = length - len(before) - len(after)
    found: list[Pair] = []
    taken = 0
    for index in shuffled(len(documents), seed):
        ids = tokenizer(documents[index], add_special_tokens=False, verbose=False)["input_ids"]
        for start in range(0, len(ids), 2 * room):
            piece = ids[start : start + 2 * room]
            half = len(piece) // 2
            row = torch.tensor([*before, *piece[:half], *after], dtype=torch.long)
            if len(piece) >= SHORTEST and taken < tokens and is_new(row, seen):
                found.append((row, moved_right([*before, *piece[half:], *after], config)))
                taken += len(row) + len(found[-1][1])
        if taken >= tokens:
            break
    return found


def moved_right(target: list[int], config: Any) -> Tensor:
    """Decoder ids of a target: its tokens but the last, behind the start token."""
    return torch.tensor([start_token(config), *target[:-1]], dtype=torch.long)


def start_token(config: Any) -> int:
    """What the decoder begins with."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    known = [getattr(each, name, None) for name in names for each in (config, text)]
    found = next((value for value in known if value is not None), None)
    if found is None:
        raise UserError(
            "The model is an encoder-decoder whose config names no decoder_start_token_id, so its decoder cannot be "
            "fed. Set config.decoder_start_token_id."
        )
    return int(found)


@torch.no_grad()
def written(model: nn.Module, batch: dict[str, Tensor], tokens: int) -> Tensor:
    """What the model itself writes, greedily, to its inputs: decoder ids (B, tokens), the start token first.

    For models of pictures or sound whose data come without a text. A model without a head gets random ids.
    """
    any_model: Any = model
    config = any_model.config
    main = batch[any_model.main_input_name]
    ids = torch.full((len(main), 1), start_token(config), dtype=torch.long, device=main.device)
    encoded = any_model.get_encoder()(main)
    while ids.shape[1] < tokens:
        output = any_model(encoder_outputs=encoded, decoder_input_ids=ids, use_cache=False)
        if "logits" not in output:
            draw = torch.Generator().manual_seed(0)
            size = (len(main), tokens - 1)
            vocabulary = config.get_text_config(decoder=True).vocab_size
            return torch.cat([ids, torch.randint(vocabulary, size, generator=draw, device="cpu").to(ids.device)], 1)
        ids = torch.cat([ids, output["logits"][:, -1:].argmax(-1)], dim=1)
    return ids


def _specials(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids a tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    return [], []
