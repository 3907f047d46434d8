"""What a sentence is worth: how well the activations foretold from it alone go along with the true ones.

Score: Pearson's correlation of simulated with true activations, over all tokens of all passages at once.

Paper: Bills et al. 2023, "Language models can explain neurons in language models". Confirmed in their code: one
correlation over the activations of all sequences, not a mean over sequences; sentences are judged on other passages
than they were made from, the most active and random ones; activations are foretold from 0 to 10. Differs from it: the
number that the writer writes, where they take the mean under its probabilities; the passages (`passages.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from layersmith.explaining.wording.prompts import LINE_TOKENS, Words, activations_in, asking_for_activations
from layersmith.explaining.wording.writer import Unanswered

#: Asks the writer: (prompt, tokens of the answer at most) -> the answer. Raises Unanswered.
Ask = Callable[[str, int], str]


@dataclass(frozen=True)
class Simulation:
    """
    correlation  None where there is none, for the reason in `why`
    foretold     activations of each passage; None where the writer's answer could not be read
    unreadable   why -> how often
    """

    correlation: float | None
    why: str
    foretold: list[list[float] | None]
    unreadable: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        return {
            "correlation": self.correlation,
            "why": self.why,
            "passages": len(self.foretold),
            "unreadable": self.unreadable,
        }


def simulate(ask: Ask, sentence: str, passages: Sequence[tuple[Words, Sequence[float]]]) -> Simulation:
    """Let the writer foretell every passage, (tokens, true activations), from the sentence, and compare."""
    foretold: list[list[float] | None] = []
    unreadable: Counter[str] = Counter()
    for words, _ in passages:
        try:
            answer = ask(asking_for_activations(sentence, words), LINE_TOKENS * len(words))
            foretold.append(activations_in(answer, len(words)))
        except Unanswered as error:
            foretold.append(None)
            unreadable[str(error)] += 1
    read = [(codes, found) for (_, codes), found in zip(passages, foretold, strict=True) if found is not None]
    true = [code for codes, _ in read for code in codes]
    correlation, why = correlated(true, [value for _, found in read for value in found])
    return Simulation(correlation, why, foretold, dict(unreadable))


def correlated(true: Sequence[float], simulated: Sequence[float]) -> tuple[float | None, str]:
    """Pearson's correlation; None, with the reason, where one of the two does not vary."""
    if not true:
        return None, "there is no answer that could be read"
    if max(true) == 0:
        return None, "the feature is active nowhere in the held-out passages that were read"
    if min(true) == max(true):
        return None, "the feature is equally active everywhere in the held-out passages that were read"
    if min(simulated) == max(simulated):
        return None, f"every token was given the same activation, {simulated[0]:g}"
    x, y = ([value - math.fsum(values) / len(values) for value in values] for values in (true, simulated))
    together = math.fsum(a * b for a, b in zip(x, y, strict=True))
    return together / math.sqrt(math.fsum(a * a for a in x) * math.fsum(b * b for b in y)), ""
