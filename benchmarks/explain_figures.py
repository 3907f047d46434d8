"""The two figures of the README that show what `layersmith explain` finds in pocket.

    python benchmarks/explain_figures.py [--out FOLDER]

map       the map of the model: every statistic of every block, shaded within its column
feature   one feature of a dictionary of layers.3.ffn: how often and how strongly it is active, and where most. It was
          chosen by eye from the fifty that contribute most, of which many are less clear (--feature takes another)

Runs `explain` twice into FOLDER (default out/figures), goes on where it was stopped, and writes
benchmarks/explain/map.json and feature.json, with their conditions, and from these docs/img/map.svg and
docs/img/feature.svg. With --drawn only the drawings are made again.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path
from typing import Any

import layersmith
from layersmith.report import units
from layersmith.report.explained import shade
from layersmith.report.markup import Markup, tag

ROOT = Path(__file__).resolve().parents[1]
FOUND, DRAWN = Path(__file__).resolve().parent / "explain", ROOT / "docs" / "img"
SITE, TOKENS, SETTINGS = "layers.3.ffn", 16384, {"expansion": 4, "k": 16, "steps": 800}
#: The feature that is shown, and how many tokens of a passage on each side.
FEATURE, AROUND = 147, 6
#: Pixels: of the map a cell and the room beside and above, of the feature a line and a character.
CELL, SIDE, TOP = (66, 22), 66, 44
LINE, LETTER = 24, 7.3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/figures"))
    parser.add_argument("--drawn", action="store_true", help="draw again what was found, run nothing")
    parser.add_argument("--feature", type=int, default=FEATURE)
    arguments = parser.parse_args()
    FOUND.mkdir(exist_ok=True)
    if not arguments.drawn:
        keep("map", found_map(layersmith.explain("pocket", out=arguments.out / "map").to_json()))
        options: dict[str, Any] = {"tool": "dictionary", "sites": SITE, "tokens": TOKENS, "settings": SETTINGS}
        result = layersmith.explain("pocket", out=arguments.out / "feature", **options).to_json()
        keep("feature", found_feature(result, arguments.feature))
    for name, draw in (("map", map_of), ("feature", feature_of)):
        found = json.loads((FOUND / f"{name}.json").read_text(encoding="utf-8"))
        (DRAWN / f"{name}.svg").write_text(draw(found), encoding="utf-8")


def keep(name: str, found: dict[str, Any]) -> None:
    (FOUND / f"{name}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def found_map(result: dict[str, Any]) -> dict[str, Any]:
    return {**_conditions(result), **result["survey"]["sections"][0]["map"]}


def found_feature(result: dict[str, Any], feature: int) -> dict[str, Any]:
    """The feature with its passages in words, and how the whole dictionary was judged."""
    (site,) = result["sites"]
    features = site["pages"]["features"]
    chosen = next(each for each in features if each["feature"] == feature)
    tokenizer = layersmith.load("pocket")[1]
    passages = []
    for passage in chosen["passages"]:
        near = range(max(0, passage["at"] - AROUND), min(len(passage["ids"]), passage["at"] + AROUND + 1))
        passages.append([[tokenizer.decode([passage["ids"][i]]), passage["codes"][i]] for i in near])
    kept = {key: chosen[key] for key in ("feature", "density", "mean", "most", "histogram")}
    judged = {name: site["table"][name] for name in ("explanation", "linear", "shuffled")}
    return {
        **_conditions(result),
        "site": site["name"],
        "size": site["size"],
        "judged": judged,
        **kept,
        "passages": passages,
    }


def _conditions(result: dict[str, Any]) -> dict[str, Any]:
    return {"settings": result["settings"], "environment": result["environment"]}


def map_of(found: dict[str, Any]) -> str:
    columns, rows = found["columns"], found["rows"]
    drawn = []
    for at, column in enumerate(columns):
        known = [row["values"][at] for row in rows if row["values"][at] is not None]
        x = SIDE + at * CELL[0]
        words = column["title"].split(" ", 1)
        for line, word in enumerate(words):
            y = TOP - 8 - 14 * (len(words) - 1 - line)
            drawn.append(_text(x + CELL[0] / 2, y, word, "tick", "middle"))
        for line, row in enumerate(rows):
            value, y = row["values"][at], TOP + line * CELL[1]
            if value is None:
                continue
            q = shade(value, known, bool(column["log"]))
            drawn.append(_box(x, y, CELL[0] - 1, CELL[1] - 1, f"q{q}"))
            words_of = "dark" if q > 4 else "light"
            drawn.append(_text(x + CELL[0] / 2, y + 15, units.significant(value, 2), words_of, "middle"))
    for line, row in enumerate(rows):
        drawn.append(_text(SIDE - 8, TOP + line * CELL[1] + 15, row["name"], "tick", "end"))
    size = SIDE + len(columns) * CELL[0] + 4, TOP + len(rows) * CELL[1] + 4
    return _svg(size, "The map of pocket: a row a block, a column a statistic", drawn)


def feature_of(found: dict[str, Any]) -> str:
    width, drawn = 820.0, []
    title = f"feature {found['feature']} of {found['site']}"
    judged, size = found["judged"], found["size"]
    about = (
        f"chosen by eye, active at {100 * found['density']:.2g} % of tokens; one of "
        f"{size['features']:.0f} features, of which {size['active']:.3g} are active at a token"
    )
    recovered = {name: f"{100 * row['loss_recovered']:.0f} %" for name, row in judged.items()}
    place = (
        f"in the sublayer's place the dictionary recovers {recovered['explanation']} of the loss, the best matrix "
        f"{recovered['linear']}, a dictionary of shuffled outputs {recovered['shuffled']}"
    )
    drawn += [_text(8, 20, title, "panel-title"), _text(8, 40, about, "tick"), _text(8, 57, place, "tick")]
    drawn += _histogram(found["histogram"], 8, 76, 150, 5 * LINE)
    for line, passage in enumerate(found["passages"]):
        x, y = 200.0, 76.0 + line * LINE
        for word, code in passage:
            shown = word.replace("\n", "↵").replace("\t", "→")
            wide = LETTER * len(shown)
            strength = round(8 * max(code, 0.0) / found["most"])
            if code > 0:
                drawn.append(_box(x, y, wide, LINE - 4, f"q{strength}"))
            words_of = "dark" if strength > 4 else "light" if code > 0 else "tick"
            drawn.append(_word(x, y + 15, shown, words_of))
            x += wide
    return _svg((width, 76 + 5 * LINE + 26), f"{title}: its histogram and the passages where it is most active", drawn)


def _histogram(counts: dict[str, Any], left: float, top: float, width: float, height: float) -> list[Markup]:
    """Bars from the first bin that is not empty to the last."""
    filled = [i for i, count in enumerate(counts["counts"]) if count]
    shown = counts["counts"][filled[0] : filled[-1] + 1]
    edges = counts["edges"][filled[0] : filled[-1] + 2]
    step = width / len(shown)
    bars = [
        _box(left + i * step, top + height * (1 - count / max(shown)), step - 2, height * count / max(shown), "bar")
        for i, count in enumerate(shown)
    ]
    ends = [_text(left, top + height + 16, units.significant(edges[0], 2), "tick")]
    ends.append(_text(left + width, top + height + 16, units.significant(edges[-1], 2), "tick", "end"))
    return [*bars, *ends, _text(left + width / 2, top + height + 16, "strength", "tick", "middle")]


def _box(x: float, y: float, width: float, height: float, style: str) -> Markup:
    return tag("rect", {"x": float(x), "y": float(y), "width": float(width), "height": float(height), "class": style})


def _text(x: float, y: float, words: str, style: str, anchor: str = "start") -> Markup:
    return tag("text", {"x": float(x), "y": float(y), "class": style, "text-anchor": anchor}, words)


def _word(x: float, y: float, words: str, style: str) -> Markup | None:
    """Words of a fixed width for each letter, whatever font there is."""
    bare = words.strip(" ")
    if not bare:
        return None
    x += LETTER * (len(words) - len(words.lstrip(" ")))
    long = {"textLength": LETTER * len(bare), "lengthAdjust": "spacingAndGlyphs"}
    return tag("text", {"x": float(x), "y": float(y), "class": f"mono {style}", **long}, bare)


def _svg(size: tuple[float, float], title: str, drawn: list[Markup | None]) -> str:
    style = resources.files("layersmith.report").joinpath("chart.css").read_text(encoding="utf-8")
    style += "".join(f"rect.q{q} {{ fill: var(--q{q}); }}\n" for q in range(9))
    style += "rect.bar { fill: var(--bar); }\nsvg text.dark { fill: var(--paper); }\n"
    style += "svg text.mono { font-family: ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace; }\n"
    attributes = {
        "xmlns": "http://www.w3.org/2000/svg",
        "viewBox": f"0 0 {size[0]:g} {size[1]:g}",
        "role": "img",
        "aria-label": title,
    }
    paper = tag("rect", {"width": "100%", "height": "100%", "class": "paper"})
    return str(tag("svg", attributes, tag("style", {}, Markup(style)), paper, *drawn)) + "\n"


if __name__ == "__main__":
    main()
