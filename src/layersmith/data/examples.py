"""What a model is fed with: text, pairs of texts, pictures or sound, chosen by what it takes, in batches.

    reader = Reader(model, tokenizer, "stdlib", length=256)
    examples = reader.read("calibration", tokens=8192)          # each counts the tokens that are really in it
    batches = reader.batched(examples, tokens=1024)            # dicts of tensors for the model, little padding

Everywhere sizes are tokens of text (or the positions a picture or a clip makes), never rows: a paragraph of 26 tokens
and a window of 256 are not the same amount of evidence.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from layersmith.data import pairs, pictures, sound, text
from layersmith.data.files import blaming
from layersmith.data.windows import Seen, check_vocabulary, paragraphs, shuffled, windows
from layersmith.errors import UserError

Batch = dict[str, Tensor]

#: Tokens that a decoder without a text of its own is given (the model writes them itself).
WRITTEN = 32
#: Characters of text read for each token wanted, at first; four times as many when they do not do.
CHARACTERS = 8
#: Pictures or clips held at once: 512 pictures of 224 x 224 are 300 MB.
MOST_EXAMPLES = 512
IDS = {"input_ids": "attention_mask", "decoder_input_ids": "decoder_attention_mask"}


@dataclass(frozen=True)
class Example:
    """One row without its batch dimension, and how many tokens (or other positions) it holds."""

    tensors: Batch
    tokens: int


class Reader:
    """The data of one model. `facts` says in words what was read, where that is more than the user named.

    model        decides the kind of data by `main_input_name` and its config
    data         "stdlib", a file or folder, "hub:owner/name"; for pictures and sound "stdlib" is a small embedded set
    length       most tokens of a row
    text_column  of a table; "source,target" for an encoder-decoder
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        data: str,
        *,
        length: int,
        text_column: str | None = None,
        seed: int = 0,
    ):
        self.model: Any = model
        self.config: Any = getattr(model, "config", None)
        if self.config is None:
            raise UserError(
                f"{type(model).__name__} is no Hugging Face model: it has no config, so what it takes is not known."
            )
        self.data, self.length, self.text_column, self.seed = data, length, text_column, seed
        self.facts: dict[str, str] = {}
        self.main = str(getattr(model, "main_input_name", "input_ids"))
        self._tokenizer = tokenizer
        self._seen: Seen = set()
        if text_column is not None and (data == "stdlib" or self.main != "input_ids"):
            raise UserError(
                f"The text column {text_column!r} is for tables (.jsonl, .json, .csv, .tsv) and Hub data sets given "
                "with --data, and for models that read text."
            )

    def read(self, split: str, tokens: int) -> list[Example]:
        """Distinct examples in random order that hold about `tokens` tokens, or fewer where there are no more.

        What was read before, from whichever split, is not read again.
        """
        if self.main == "input_ids":
            return self._texts(split, tokens)
        if self.main == "pixel_values":
            size = pictures.patches(self.model)
            count = min(MOST_EXAMPLES, -(-tokens // size))
            found, self.facts["pictures"] = pictures.pictures(self.model, self.data, split, count, self.seed)
            return [Example({self.main: picture}, size) for picture in found]
        if self.main in ("input_features", "input_values"):
            size = sound.frames(self.model, sound.ear_of(self.model).hear(_silence(self.model)))
            count = min(MOST_EXAMPLES, -(-tokens // size))
            found, self.facts["sound"] = sound.clips(self.model, self.data, split, count, self.seed)
            return [Example({self.main: clip}, size) for clip in found]
        raise UserError(
            f"{type(self.model).__name__} takes {self.main!r}, which is neither text, pictures nor sound, so it cannot "
            "be fed."
        )

    def batched(self, examples: list[Example], tokens: int) -> list[Batch]:
        """Batches of about `tokens` tokens on the model's device. Rows of similar length stand together."""
        groups: list[list[Example]] = []
        held = 0
        for example in sorted(examples, key=lambda example: example.tokens):
            if not groups or held >= tokens or self._alone:
                groups.append([])
                held = 0
            groups[-1].append(example)
            held += example.tokens
        batches = [self._stacked(group) for group in groups]
        return [batches[index] for index in shuffled(len(batches), self.seed)]

    def _texts(self, split: str, tokens: int) -> list[Example]:
        if self._tokenizer is None:
            raise UserError(
                "The model came without a tokenizer, so no text can be read to it. Put the tokenizer's files beside "
                "the model, or pass tokenizer=..."
            )
        paired = pairs.read_pairs(self.data, split, self.text_column) if self._writes_apart else None
        documents = [] if paired is not None else text.read(self.data, split, self.text_column)
        with blaming(f"{type(self._tokenizer).__name__} cannot turn this text into tokens"):
            if paired is not None:
                found = self._pairs(pairs.pair_rows, paired, tokens)
            else:
                documents = [documents[index] for index in shuffled(len(documents), self.seed)]
                found = self._until_enough(documents, tokens)
        for name in ("input_ids", "decoder_input_ids"):
            rows = [example.tensors[name] for example in found if name in example.tensors]
            check_vocabulary(self.model, self._tokenizer, rows)
        return self._with_pictures(found, split) if self._sees_too else found

    def _until_enough(self, documents: list[str], tokens: int) -> list[Example]:
        """Examples from a part of the documents that surely holds enough: tokenizing all of a large text takes long."""
        characters = CHARACTERS * tokens
        while True:
            some, held = [], 0
            for document in documents:
                if held > characters:
                    break
                some.append(document)
                held += len(document)
            seen = self._seen.copy()
            found = self._rows(some, tokens)
            if len(some) == len(documents) or sum(example.tokens for example in found) >= 0.9 * tokens:
                return found
            self._seen = seen
            characters *= 4

    def _rows(self, documents: list[str], tokens: int) -> list[Example]:
        if self._writes_apart:
            return self._pairs(pairs.halved_rows, documents, tokens)
        assert self._tokenizer is not None
        if _generates(self.model):
            count = -(-tokens // self.length)
            rows = list(windows(documents, self._tokenizer, self.length, count, self.seed, self._seen))
        else:
            rows = paragraphs(documents, self._tokenizer, self.length, tokens, self.seed, self._seen)
        return [Example({"input_ids": row}, len(row)) for row in rows]

    def _pairs(self, make: Any, texts: list[Any], tokens: int) -> list[Example]:
        sizes = {"length": self.length, "tokens": tokens, "seed": self.seed}
        rows = make(texts, self._tokenizer, self.config, **sizes, seen=self._seen)
        return [Example({"input_ids": a, "decoder_input_ids": b}, len(a) + len(b)) for a, b in rows]

    def _with_pictures(self, examples: list[Example], split: str) -> list[Example]:
        """A picture beside every text, for models that compare the two; pictures come from the embedded set."""
        count = min(MOST_EXAMPLES, len(examples))
        found, self.facts["pictures"] = pictures.pictures(self.model, "stdlib", split, count, self.seed)
        return [
            Example(example.tensors | {"pixel_values": found[index % len(found)]}, example.tokens)
            for index, example in enumerate(examples)
        ]

    def _stacked(self, group: list[Example]) -> Batch:
        batch: Batch = {}
        for name in group[0].tensors:
            rows = [example.tensors[name] for example in group]
            if name not in IDS:
                batch[name] = torch.stack(rows)
                continue
            longest = max(len(row) for row in rows)
            batch[name] = torch.stack([F.pad(row, (0, longest - len(row)), value=self._padding) for row in rows])
            if not _generates(self.model) or self._writes_apart:
                masks = [F.pad(torch.ones_like(row), (0, longest - len(row))) for row in rows]
                batch[IDS[name]] = torch.stack(masks)
        device, dtype = _placement(self.model)
        placed = {name: t.to(device, dtype if t.is_floating_point() else None) for name, t in batch.items()}
        if self._decodes and "decoder_input_ids" not in placed:
            room = getattr(self.config, "max_target_positions", None) or WRITTEN
            placed["decoder_input_ids"] = pairs.written(self.model, placed, min(WRITTEN, room))
        return placed

    @property
    def _decodes(self) -> bool:
        return bool(getattr(self.config, "is_encoder_decoder", False))

    @property
    def _writes_apart(self) -> bool:
        """Whether the model reads one text and writes another."""
        return self._decodes and _accepts(self.model, "decoder_input_ids")

    @property
    def _sees_too(self) -> bool:
        """Whether every text needs a picture beside it (CLIP): not so where pictures are optional (LLaVA)."""
        two_towers = hasattr(self.config, "vision_config") and not _generates(self.model)
        return two_towers and _accepts(self.model, "pixel_values")

    @property
    def _padding(self) -> int:
        padding = None if self._tokenizer is None else self._tokenizer.pad_token_id
        return 0 if padding is None else padding

    @property
    def _alone(self) -> bool:
        """Whether rows of text must not share a batch: the tokenizer or a classifier's config knows no padding."""
        if self.main != "input_ids" or (_generates(self.model) and not self._writes_apart):
            return False
        config = self.config
        text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
        unknown = self._tokenizer is not None and self._tokenizer.pad_token_id is None
        return unknown or ("pad_token_id" in text_config.to_dict() and text_config.pad_token_id is None)


def _generates(model: nn.Module) -> bool:
    return bool(getattr(model, "can_generate", lambda: False)())


def _accepts(model: nn.Module, name: str) -> bool:
    """Whether `forward` takes this keyword: by name, or as a wrapper that hands all of its arguments on."""
    parameters = inspect.signature(model.forward).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters.values())


def _placement(model: nn.Module) -> tuple[torch.device, torch.dtype]:
    first = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return first.device, first.dtype


def _silence(model: nn.Module) -> Any:
    import numpy as np

    return np.zeros(sound.ear_of(model).samples, np.float32)
