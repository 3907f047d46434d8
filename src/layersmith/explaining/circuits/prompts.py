"""Pairs of prompts that differ in what decides the answer, as batches of a model.

    {"clean": "When Tom and Ann went out, Tom thanked", "corrupt": "When Tom and Ann went out, Ann thanked",
     "answer": " Ann", "wrong": " Tom"}

`answer` and `wrong` may be lists. What is measured is the log-odds of the answers against the wrong ones, the logit
difference where there is one of each:

    log sum exp logits[answers] - log sum exp logits[wrong]

The two prompts of a pair have to be as long in tokens: patching puts what was computed at a place of one into the same
place of the other.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layersmith.errors import UserError
from layersmith.measuring.inputs import config_of, is_causal_lm

#: Pairs run at once.
AT_ONCE = 8
KEYS = ("clean", "corrupt", "answer", "wrong")


@dataclass(frozen=True)
class Pair:
    """One pair in words."""

    clean: str
    corrupt: str
    answer: tuple[str, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class Prompts:
    """Pairs of one length.

    clean, corrupt  keyword arguments of the model; ids (B, T)
    where           (B,) int64: the position at which the answer is read
    right, wrong    (B, V) bool: the tokens that count as such
    """

    clean: dict[str, Tensor]
    corrupt: dict[str, Tensor]
    where: Tensor
    right: Tensor
    wrong: Tensor

    def at_answer(self, logits: Tensor) -> Tensor:
        """(..., B, T, V) -> (..., B, V)."""
        return logits[..., torch.arange(len(self.where), device=logits.device), self.where, :]

    def log_odds(self, logits: Tensor) -> Tensor:
        """(..., B, V) logits at the answer's position -> (..., B) nats."""
        right = logits.masked_fill(~self.right, -torch.inf).logsumexp(-1)
        return right - logits.masked_fill(~self.wrong, -torch.inf).logsumexp(-1)


def read(path: str) -> list[Pair]:
    """The pairs of a JSONL file. UserError for a file that is not there or holds something else."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompts {path!r} cannot be read ({error}). Give a JSONL file of pairs.") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            pairs.append(_pair(line, f"line {number} of {path}"))
    if not pairs:
        raise UserError(f"The prompts {path!r} hold no pair. Write one a line: a JSON object with {', '.join(KEYS)}.")
    return pairs


def _pair(line: str, place: str) -> Pair:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    told = f"A pair is a JSON object with {', '.join(KEYS)}: texts, of which the last two may be lists of texts"
    if not isinstance(found, dict) or set(found) != set(KEYS):
        raise UserError(f"{told}; {place} is none.")
    answer, wrong = (tuple(v) if isinstance(v := found[key], list) else (v,) for key in ("answer", "wrong"))
    texts = (found["clean"], found["corrupt"], *answer, *wrong)
    if not answer or not wrong or not all(isinstance(text, str) and text for text in texts):
        raise UserError(f"{told}, none of them empty; {place} has something else.")
    return Pair(found["clean"], found["corrupt"], answer, wrong)


class Encoder:
    """Turns pairs into batches of one model. UserError for a model that answers no prompt with a token."""

    def __init__(self, model: Any, tokenizer: Any, device: torch.device):
        config = config_of(model)
        self.tokenizer, self.device = tokenizer, device
        self.causal = is_causal_lm(model)
        pairs = getattr(config, "is_encoder_decoder", False)
        self.start = getattr(config, "decoder_start_token_id", None) if pairs else None
        self.mask = None if self.causal or self.start is not None else getattr(tokenizer, "mask_token_id", None)
        unembed = getattr(model, "get_output_embeddings", lambda: None)()
        answers = self.causal or self.start is not None or self.mask is not None
        if tokenizer is None or unembed is None or not answers:
            raise UserError(
                f"A circuit is found on prompts that the model answers with a token, and {type(model).__name__} "
                f"predicts none, or comes with no tokenizer that could ask it (a masked model needs one with a mask "
                f"token). Take a language model."
            )
        # A map in a number format has no weight to count the rows of.
        self.vocabulary = int(unembed.weight.shape[0] or config.get_text_config().vocab_size)

    def batches(self, pairs: Sequence[Pair]) -> list[Prompts]:
        """All pairs, those of one length together. UserError for one whose prompts are not of one length."""
        return self._batched([self._encoded(pair) for pair in pairs])

    def longest_group(self, pairs: Iterable[Pair], wanted: int) -> list[Prompts]:
        """The first `wanted` pairs of the commonest length; pairs that do not fit the tokenizer are left out."""
        if self.mask is not None:
            raise UserError(
                "The tasks are texts to be continued, and this model fills in a mask. Give prompts of your own with "
                "the mask where the answer goes (--set prompts=FILE.jsonl)."
            )
        by_length = defaultdict(list)
        for pair in pairs:
            try:
                encoded = self._encoded(pair)
            except UserError:
                continue
            by_length[len(encoded[0])].append(encoded)
            if len(by_length[len(encoded[0])]) == wanted:
                return self._batched(by_length[len(encoded[0])])
        most = max(by_length.values(), key=len, default=[])
        if len(most) < 2:
            raise UserError(
                "This task's prompts do not fit the tokenizer: the two prompts of a pair come out unequally long, or "
                "the right and the wrong answer begin with the same token. Take another task, or prompts of your own "
                "(--set prompts=FILE.jsonl)."
            )
        return self._batched(most)

    def _encoded(self, pair: Pair) -> tuple[list[int], list[int], set[int], set[int]]:
        clean, corrupt = self._ids(pair.clean), self._ids(pair.corrupt)
        if len(clean) != len(corrupt):
            raise UserError(
                f"The two prompts of a pair have to be as long in tokens, for patching puts what one computes at a "
                f"place into the same place of the other. {pair.clean!r} has {len(clean)} tokens and {pair.corrupt!r} "
                f"{len(corrupt)}. Choose words that this tokenizer cuts into equally many tokens."
            )
        right, wrong = (
            {self._answer(pair.clean, clean, text) for text in texts} for texts in (pair.answer, pair.wrong)
        )
        right, wrong = right - wrong, wrong - right
        if not right or not wrong:
            raise UserError(
                f"After {pair.clean!r} the answer {pair.answer[0]!r} and the wrong one {pair.wrong[0]!r} begin with "
                f"the same token, so their odds say nothing. Choose answers that differ in their first token."
            )
        return clean, corrupt, right, wrong

    def _ids(self, text: str) -> list[int]:
        ids = list(self.tokenizer(text)["input_ids"])
        special = set(getattr(self.tokenizer, "all_special_ids", ()))
        while self.causal and len(ids) > 1 and ids[-1] in special:
            ids.pop()  # an end that the tokenizer adds: nothing is to be continued after it
        if self.mask is not None and ids.count(self.mask) != 1:
            raise UserError(
                f"{text!r} does not say where the answer stands: write {self.tokenizer.mask_token} there, once."
            )
        if not ids:
            raise UserError("A prompt has no token.")
        return ids

    def _answer(self, prompt: str, ids: list[int], text: str) -> int:
        """The first token of the answer. UserError where it grows together with the prompt's last one."""
        if not self.causal:
            return int(self.tokenizer(text, add_special_tokens=False)["input_ids"][0])
        whole = self._ids(prompt + text)
        if whole[: len(ids)] != ids or len(whole) == len(ids):
            raise UserError(
                f"{text!r} does not begin a token of its own after {prompt!r}. Move the space between them from the "
                f"end of the prompt to the beginning of the answer, or the other way round."
            )
        return int(whole[len(ids)])

    def _batched(self, encoded: list[tuple[list[int], list[int], set[int], set[int]]]) -> list[Prompts]:
        by_length = defaultdict(list)
        for each in encoded:
            by_length[len(each[0])].append(each)
        return [
            self._one(group[start : start + AT_ONCE])
            for group in by_length.values()
            for start in range(0, len(group), AT_ONCE)
        ]

    def _one(self, group: list[tuple[list[int], list[int], set[int], set[int]]]) -> Prompts:
        clean, corrupt = (torch.tensor([each[side] for each in group], device=self.device) for side in (0, 1))
        if self.mask is not None:
            where = (clean == self.mask).int().argmax(-1)
        else:
            last = 0 if self.start is not None else clean.shape[1] - 1
            where = torch.full((len(group),), last, device=self.device)
        marks = [torch.zeros(len(group), self.vocabulary, dtype=torch.bool, device=self.device) for _ in range(2)]
        for row, each in enumerate(group):
            marks[0][row, list(each[2])] = True
            marks[1][row, list(each[3])] = True
        return Prompts(self._batch(clean), self._batch(corrupt), where, *marks)

    def _batch(self, ids: Tensor) -> dict[str, Tensor]:
        batch = {"input_ids": ids}
        if self.start is not None:
            batch["decoder_input_ids"] = torch.full_like(ids[:, :1], self.start)
        return batch
