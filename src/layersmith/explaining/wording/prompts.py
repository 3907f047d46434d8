"""What a writer is asked, and how its answers are read. Nothing unreadable is guessed at: it is `Unanswered`.

A sentence is asked for from passages in which every active token is marked, [[token|7]], with its code as a share of
the largest, from 1 to 10. A simulation is asked for as one line a token, "12: 7", from the sentence alone. Asked this
way any model can answer: Bills et al. read the probabilities of all eleven numbers instead, which most endpoints do
not give.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from layersmith.explaining.wording.writer import Unanswered

#: The strongest activation that a writer is told of, and may answer.
STRONGEST = 10
#: Tokens of an answer: a sentence; a line of a simulation, with room for a writer that repeats the token.
SENTENCE_TOKENS, LINE_TOKENS = 128, 16
#: Characters of a sentence that are kept.
LONGEST = 300

#: "12: 7", or with the token between the two: '12: " cat" 7'.
_LINE = re.compile(r"""\s*(\d{1,6})\s*:\s*(?:".{0,200}"\s*:?\s*)?(\d{1,6}(?:\.\d{1,6})?)\s*""")

Words = Sequence[str]


def asking_for_a_sentence(passages: Sequence[tuple[Words, Sequence[float]]]) -> str:
    """The prompt for passages as (tokens, codes), of which at least one code is positive."""
    most = max(code for _, codes in passages for code in codes)
    shown = [f"Passage {n}:\n{_marked(words, codes, most)}" for n, (words, codes) in enumerate(passages, 1)]
    return (
        "One feature of a neural network is active at a few tokens of a text. In the passages below, the tokens at "
        "which it is active are marked like [[this|7]]: with double brackets, and after a bar how strongly it is "
        f"active there, from 1 to {STRONGEST}. At all other tokens it is silent.\n\n"
        + "\n\n".join(shown)
        + "\n\nWhen is the feature active? Answer with one short sentence and nothing else.\n\nSentence:"
    )


def sentence_in(answer: str) -> str:
    """The first line of text, without quotes, labels or characters that control a terminal. Unanswered without one."""
    for line in _after_thinking(answer).splitlines():
        plain = "".join(sign if sign.isprintable() else " " for sign in line)
        plain = " ".join(plain.split()).removeprefix("Sentence:").strip(" \"'`*“”")
        if any(sign.isalnum() for sign in plain):
            return plain[:LONGEST]
    raise Unanswered("the answer holds no sentence")


def asking_for_activations(sentence: str, words: Words) -> str:
    """The prompt for the activations of a feature, of which only the sentence is told, at the tokens of a passage."""
    lines = "\n".join(f"{n}: {json.dumps(word, ensure_ascii=False)}" for n, word in enumerate(words, 1))
    return (
        "One feature of a neural network is active at a few tokens of a text and silent at most of them. In words:\n"
        f"{sentence}\n\n"
        f"Below are the {len(words)} tokens of a passage in their order, each with its number. Say of every token how "
        f"strongly the feature is active there, as a whole number from 0 (silent) to {STRONGEST}. Answer with "
        f"{len(words)} lines and nothing else, each of them the number of the token, a colon and the activation, such "
        f"as 3: 0.\n\n{lines}\n\nAnswer:\n"
    )


def activations_in(answer: str, count: int) -> list[float]:
    """The activations of `count` tokens. Unanswered unless each of them has exactly one, from 0 to 10."""
    found: dict[int, float] = {}
    for line in _after_thinking(answer).splitlines():
        match = _LINE.fullmatch(line)
        if match is None:
            continue
        token, activation = int(match[1]), float(match[2])
        if not 1 <= token <= count:
            raise Unanswered("it numbers tokens that are not there")
        if token in found:
            raise Unanswered("it answers a token twice")
        if activation > STRONGEST:
            raise Unanswered(f"it gives an activation above {STRONGEST}")
        found[token] = activation
    if len(found) < count:
        raise Unanswered("it leaves tokens out" if found else "it holds no line of the form 3: 0")
    return [found[token] for token in range(1, count + 1)]


def _marked(words: Words, codes: Sequence[float], most: float) -> str:
    return "".join(
        f"[[{word}|{max(1, round(STRONGEST * code / most))}]]" if code > 0 else word
        for word, code in zip(words, codes, strict=True)
    )


def _after_thinking(answer: str) -> str:
    """The answer without the thoughts that some models write before it."""
    return answer.rpartition("</think>")[2]
