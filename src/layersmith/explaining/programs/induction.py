"""The inputs of the induction task, all of them: which number went with this letter before?

    <s> a 2 b 0 a       asked at every letter:  new, new, 2
    <s> 1 a 2 b 0       the same one place later, so that no position is a letter's for sure

A letter goes with one number all through an input, and with any in another. Where a letter has not been before, the
answer is "new".

Paper: "Learning Transformer Programs" (its test of in-context learning; confirmed in the released code).
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from layersmith.explaining.programs.learning import IGNORED

START, NEW = "<s>", "new"


def tokens_of(symbols: int) -> list[str]:
    """The start, then the letters, then the numbers."""
    return [START, *(chr(ord("a") + i) for i in range(symbols)), *(str(i) for i in range(symbols))]


def answers_of(symbols: int) -> list[str]:
    return [NEW, *(str(i) for i in range(symbols))]


def inputs(symbols: int, letters: int) -> tuple[Tensor, Tensor]:
    """Every input once: ids (N, 2 letters), and the answers (N, 2 letters), IGNORED where nothing is asked.

    letters  in an input that begins with one
    """
    rows: dict[tuple[int, ...], None] = {}
    for numbers in product(range(symbols), repeat=symbols):
        for drawn in product(range(symbols), repeat=letters):
            pairs = [x for letter in drawn for x in (1 + letter, 1 + symbols + numbers[letter])]
            rows[(0, *pairs[:-1])] = None
        for drawn in product(range(symbols), repeat=letters - 1):
            pairs = [x for letter in drawn for x in (1 + letter, 1 + symbols + numbers[letter])]
            rows |= {(0, 1 + symbols + first, *pairs): None for first in range(symbols)}
    return torch.tensor(list(rows)), torch.tensor([answered(row, symbols) for row in rows])


def answered(row: tuple[int, ...], symbols: int) -> list[int]:
    """What is right at each position of one input."""
    known: dict[int, int] = {}
    answers = []
    for here, after in zip(row, (*row[1:], 0), strict=True):
        letter = 1 <= here <= symbols
        answers.append(known.get(here, 0) if letter else IGNORED)
        if letter:
            known[here] = after - symbols
    return answers
