"""What a tool or survey has to show: a list of sections as JSON, which the report draws and escapes.

A section has a title, maybe a text, and any of

    map        rows x columns of figures as a heat map: what `heat_map` makes
    table      {"columns": [...], "rows": [[...], ...]}; the first column names, the others hold figures or words
    graph      {"stages": [[node, ...], ...], "edges": [[from, to, score], ...]}: nodes in the order they run in, drawn
    wires      {"axes": [...], "steps": [...]}: boxes on wires, as the survey `wires` records them, drawn
    passages   [{"label": "...", "tokens": [["word", 0.7], ...]}]: text whose tokens are shaded by a strength in [0, 1]

A tool knows ids, not words. For passages of features, {"features": [{"feature": 17, "most": 9.2, "passages": [{"ids":
[...], "codes": [...]}]}]} in its pages, `with_words` makes the sections.

A tool's are in `Explanation.pages["sections"]`, a survey's under "sections" of what it returns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

Section = dict[str, Any]

#: Features whose passages are shown.
FEATURES = 20
#: Title of the table of features that were put into words.
IN_WORDS = "Features in words"


@dataclass(frozen=True)
class Column:
    """One column of a map.

    title    above it
    meaning  one sentence, shown with every cell
    log      shades follow the logarithm, for figures over several powers of ten
    """

    title: str
    meaning: str
    log: bool = False


def heat_map(
    title: str, columns: Sequence[Column], rows: Sequence[tuple[str, Sequence[float | None]]], text: str = ""
) -> Section:
    """A section with a map; columns without any figure are left out."""
    kept = [index for index in range(len(columns)) if any(values[index] is not None for _, values in rows)]
    drawn = {
        "columns": [asdict(columns[index]) for index in kept],
        "rows": [{"name": name, "values": [values[index] for index in kept]} for name, values in rows],
    }
    return {"title": title, "text": text, "map": drawn}


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], text: str = "") -> Section:
    """A section with a table."""
    return {"title": title, "text": text, "table": {"columns": list(columns), "rows": [list(row) for row in rows]}}


def with_words(pages: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """A tool's pages, with a section of shaded text for each of the first features that have passages of token ids."""
    told = [
        (feature, [passage for passage in feature["passages"] if passage.get("ids")])
        for feature in pages.get("features", [])[:FEATURES]
    ]
    made = [
        {
            "title": f"Feature {feature['feature']}",
            "text": "",
            "passages": [_shaded(passage, feature["most"], tokenizer) for passage in passages],
        }
        for feature, passages in told
        if passages and tokenizer is not None
    ]
    return {**pages, "sections": [*pages.get("sections", []), *made]} if made else pages


def _shaded(passage: dict[str, Any], most: float, tokenizer: Any) -> dict[str, Any]:
    """The passage's tokens in words, each with its code as a share of the feature's largest."""
    words = [tokenizer.decode([token]) for token in passage["ids"]]
    shares = [max(code, 0.0) / most if most > 0 else 0.0 for code in passage["codes"]]
    return {"label": f"{max(passage['codes']):.3g}", "tokens": [list(p) for p in zip(words, shares, strict=True)]}
