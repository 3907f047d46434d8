"""Sentences on the pages of a site: one table of all of them, and each above the passages of its feature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layersmith.explaining.sections import IN_WORDS, Section, table
from layersmith.explaining.wording.address import sent_to
from layersmith.explaining.wording.writer import Writer

COLUMNS = ("", "in words", "score", "another's words", "unreadable answers")


def with_sentences(pages: dict[str, Any], words: Mapping[int, dict[str, Any]], writer: Writer) -> dict[str, Any]:
    """A tool's pages with the sentences: "words" in each worded feature, a table, and a text in its section.

    words  what `in_words` came to
    """
    features = [
        {**page, "words": words[page["feature"]]} if page["feature"] in words else page for page in pages["features"]
    ]
    named = {f"Feature {feature}": _told(found) for feature, found in words.items()}
    sections = [
        {**section, "text": named[section["title"]]} if section["title"] in named else section
        for section in pages.get("sections", [])
    ]
    first = next((i for i, section in enumerate(sections) if section["title"].startswith("Feature ")), len(sections))
    return {**pages, "features": features, "sections": [*sections[:first], _table(words, writer), *sections[first:]]}


def _table(words: Mapping[int, dict[str, Any]], writer: Writer) -> Section:
    rows = [
        [
            f"feature {feature}",
            found["sentence"] or f"none: {found['why']}",
            _figure(found["score"]),
            _figure(found["control"]),
            _unreadable(found),
        ]
        for feature, found in words.items()
    ]
    text = (
        f"Sentences by {writer.name}, from passages of the text in which the feature is most active. Score: the "
        f"correlation of its activations on held-out passages with those that the writer foretells from the sentence "
        f"alone; beside it the same from another feature's sentence, which has to score about 0."
    )
    return table(IN_WORDS, COLUMNS, rows, text if writer.address is None else f"{text} {sent_to(writer.address)}")


def _told(found: dict[str, Any]) -> str:
    if found["sentence"] is None:
        return f"Not put into words by {found['by']}: {found['why']}."
    beside = "" if found["control"] is None else f", {_figure(found['control'])} with another feature's words"
    return f"In the words of {found['by']}: “{found['sentence']}” Score {_figure(found['score'])}{beside}."


def _figure(score: dict[str, Any] | None) -> str:
    """The correlation, or why there is none."""
    if score is None:
        return "–"
    return f"none: {score['why']}" if score["correlation"] is None else f"{score['correlation']:.2f}"


def _unreadable(found: dict[str, Any]) -> str:
    """ "3 of 24: it leaves tokens out (3)", over both simulations."""
    simulations = [found[name] for name in ("score", "control") if found[name] is not None]
    why: dict[str, int] = {}
    for simulation in simulations:
        for reason, times in simulation["unreadable"].items():
            why[reason] = why.get(reason, 0) + times
    asked = sum(simulation["passages"] for simulation in simulations)
    said = ", ".join(f"{reason} ({times})" for reason, times in why.items())
    return f"{sum(why.values())} of {asked}{': ' + said if said else ''}"
