"""How many bytes of text each token stands for, so that models with different vocabularies compare in bits per byte."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
    """(highest id + 1,) int64 bytes per token id; special tokens and unused ids stand for none.

    Known for byte-level BPE (every character of a token is one byte) and for SentencePiece with byte fallback (the
    token's own text, or one byte for "<0x0A>"). None for tokenizers that lose text, such as WordPiece.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    kinds = set(_decoder_types(json.loads(backend.to_str())["decoder"]))
    if not kinds & {"ByteLevel", "ByteFallback", "Metaspace"}:
        return None
    size: Callable[[str], int] = len if "ByteLevel" in kinds else _sentencepiece_size
    special = set(tokenizer.all_special_ids)
    vocabulary = tokenizer.get_vocab()
    sizes = torch.zeros(max(vocabulary.values()) + 1, dtype=torch.long)
    for token, index in vocabulary.items():
        if index not in special:
            sizes[index] = size(token)
    return sizes


def _sentencepiece_size(token: str) -> int:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return 1
    return len(token.replace("▁", " ").encode())


def _decoder_types(decoder: Any) -> list[str]:
    if decoder is None:
        return []
    return [decoder["type"], *(kind for part in decoder.get("decoders", []) for kind in _decoder_types(part))]
