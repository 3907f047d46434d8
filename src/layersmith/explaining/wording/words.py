"""The features of one site in words: a sentence for each, its score, and the score of another feature's sentence.

The control: the same passages are foretold from the sentence of the next worded feature. A sentence that scores no
better than another feature's says nothing of this one.

What a worded feature has under "words", in the result:

{"by": "...", "sentence": "..." or null, "why": "" or why there is none,
 "score": {"correlation": 0.8 or null, "why": "", "passages": 12, "unreadable": {why: times}},
 "control": the same, of the sentence of the feature "control_of"; both null where there is no other sentence,
 "held_out": [{"from": "top", "ids": [...], "codes": [...], "foretold": [...] or null}]}
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from layersmith.explaining.wording.passages import Passage
from layersmith.explaining.wording.prompts import SENTENCE_TOKENS, Words, asking_for_a_sentence, sentence_in
from layersmith.explaining.wording.scoring import Ask, Simulation, simulate
from layersmith.explaining.wording.writer import Unanswered, Writer
from layersmith.runs.identity import digest_of
from layersmith.runs.workspace import Workspace

Spell = Callable[[Sequence[int]], Words]


class Asked:
    """A writer whose answers are kept in the workspace: what it has answered once, it is not asked again.

    They are kept under the writer's identity and the prompt, so whatever changes is asked anew. What it did not answer
    is not kept.
    """

    def __init__(self, writer: Writer, workspace: Workspace, tell: Callable[[int], None]):
        self._writer, self._workspace, self._tell = writer, workspace, tell
        self.done = 0

    def __call__(self, prompt: str, most: int) -> str:
        self.done += 1
        name = f"worded/{digest_of(self._writer.identity, prompt, most)}"
        kept = self._workspace.load_json(name)
        if kept is None:
            kept = self._writer.ask(prompt, most)
            self._workspace.save_json(name, kept)
            self._tell(self.done)  # only what takes time: the time left follows from it
        return str(kept)


def in_words(
    found: Mapping[str, Mapping[str, Sequence[Passage]]], features: Sequence[int], by: str, ask: Ask, spell: Spell
) -> dict[int, dict[str, Any]]:
    """Feature -> the JSON above.

    found  the passages of each feature, as `passages_of` gives them
    spell  token ids -> each token as text
    """
    told = {feature: _sentence(found[str(feature)]["shown"], ask, spell) for feature in features}
    said = [feature for feature in features if told[feature][0] is not None]
    words = {}
    for feature in features:
        sentence, why = told[feature]
        judged = found[str(feature)]["held_out"]
        texts = [(spell(passage["ids"]), passage["codes"]) for passage in judged]
        other = _other(said, feature)
        own = None if sentence is None else simulate(ask, sentence, texts)
        control = None if other is None else simulate(ask, str(told[other][0]), texts)
        foretold: list[Any] = [None] * len(judged) if own is None else own.foretold
        words[feature] = {
            "by": by,
            "sentence": sentence,
            "why": why,
            "score": _json(own),
            "control": _json(control),
            "control_of": other,
            "held_out": [{**passage, "foretold": row} for passage, row in zip(judged, foretold, strict=True)],
        }
    return words


def answers_needed(found: Mapping[str, Mapping[str, Sequence[Passage]]], features: Sequence[int]) -> int:
    """How many answers it takes to put these features into words, at most."""
    judged = sum(len(found[str(feature)]["held_out"]) for feature in features)
    return len(features) + judged * (2 if len(features) > 1 else 1)


def _sentence(shown: Sequence[Passage], ask: Ask, spell: Spell) -> tuple[str | None, str]:
    """The sentence; or None, and why there is none."""
    if not shown:
        return None, "the feature is not active in any whole passage of the text"
    try:
        prompt = asking_for_a_sentence([(spell(passage["ids"]), passage["codes"]) for passage in shown])
        return sentence_in(ask(prompt, SENTENCE_TOKENS)), ""
    except Unanswered as error:
        return None, str(error)


def _other(said: Sequence[int], feature: int) -> int | None:
    """The next feature with a sentence, whose sentence is the control; None where there is no other."""
    if feature not in said or len(said) < 2:
        return None
    return said[(said.index(feature) + 1) % len(said)]


def _json(simulation: Simulation | None) -> dict[str, Any] | None:
    return None if simulation is None else simulation.to_json()
