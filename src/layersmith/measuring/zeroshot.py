"""Multiple-choice accuracy: which continuation of a context does a language model find most likely?

The questions come from the user's own JSONL file, one object per line:

    {"context": "The capital of France is", "choices": ["Paris", "Rome"], "answer": 0}

`answer` is the index of the right choice ("query" and "gold" are accepted as the names in common use). Scores are
summed log-likelihoods of the choice's tokens given the context; `accuracy_per_byte` divides them by the choice's
length in bytes, which takes the advantage from short choices.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedTokenizerBase

from layersmith.anatomy.limits import longest_input
from layersmith.errors import UserError
from layersmith.measuring.inputs import is_causal_lm, placement


@dataclass(frozen=True)
class Question:
    """A context, its possible continuations, and the index of the right one."""

    context: str
    choices: tuple[str, ...]
    answer: int


def read_questions(path: str | Path) -> list[Question]:
    """The questions of a JSONL file; a UserError names the line that is wrong."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot read the questions at {str(path)!r} as UTF-8 text: {said}.") from error
    found = list(_parsed(str(path), lines))
    if not found:
        raise UserError(f"There are no questions in {str(path)!r}.")
    return found


def check_writes(models: Iterable[nn.Module]) -> None:
    """A UserError for a model that no questions can be put to."""
    for model in models:
        if not is_causal_lm(model):
            raise UserError(
                f"{type(model).__name__} does not predict the next token of a text, so it has no zero-shot score."
            )


def zeroshot(model: nn.Module, tokenizer: PreTrainedTokenizerBase, questions: list[Question]) -> dict[str, float | int]:
    """`accuracy`, `accuracy_per_byte`, the `chance` level of guessing, and the number of `questions`."""
    check_writes([model])
    right = right_per_byte = chance = 0.0
    for question in questions:
        scores = torch.tensor([_log_likelihood(model, tokenizer, question.context, c) for c in question.choices])
        lengths = torch.tensor([len(choice.encode()) for choice in question.choices])
        right += int(scores.argmax()) == question.answer
        right_per_byte += int((scores / lengths).argmax()) == question.answer
        chance += 1 / len(question.choices)
    count = len(questions)
    return {
        "accuracy": right / count,
        "accuracy_per_byte": right_per_byte / count,
        "chance": chance / count,
        "questions": count,
    }


def _log_likelihood(model: nn.Module, tokenizer: PreTrainedTokenizerBase, context: str, choice: str) -> float:
    """log p(choice | context): the tokens after those of the context alone, scored in one forward pass."""
    before = tokenizer(context)["input_ids"]
    ids = tokenizer(f"{context} {choice}")["input_ids"]
    longest = longest_input(model)
    if longest is not None and len(ids) > longest:
        raise UserError(
            f"The question that begins {context[:40]!r} has {len(ids)} tokens with its choice {choice[:40]!r}, more "
            f"than this model's {longest} positions. Shorten it, or leave it out."
        )
    start = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
    start = max(start, 1)  # the first token of a text has nothing before it to be predicted from
    device, _ = placement(model)
    tokens = torch.tensor([ids], device=device)
    with torch.no_grad():
        logits = model(input_ids=tokens, use_cache=False).logits[0, start - 1 : -1]
    return -float(F.cross_entropy(logits.float(), tokens[0, start:], reduction="sum"))


def _parsed(path: str, lines: list[str]) -> Iterator[Question]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            context = record["context"] if "context" in record else record["query"]
            answer = record["answer"] if "answer" in record else record["gold"]
            if not isinstance(record["choices"], list):
                raise TypeError("choices is no list")
            question = Question(str(context), tuple(str(c) for c in record["choices"]), int(answer))
            question.context.encode(), "".join(question.choices).encode()
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UserError(
                f"Line {number} of {path!r} is not a question ({error!r}). Write one JSON object per line with "
                f"'context', 'choices' (a list of texts) and 'answer' (the index of the right one)."
            ) from error
        if not question.context.strip():
            raise UserError(f"Line {number} of {path!r} has an empty context.")
        if len(question.choices) < 2 or not 0 <= question.answer < len(question.choices) or "" in question.choices:
            raise UserError(
                f"Line {number} of {path!r} needs at least two non-empty choices and an answer that is the index of "
                f"one of them."
            )
        yield question
