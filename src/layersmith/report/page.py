"""Assemble the page: sections in the order a reader asks, each with one figure and a caption that states conditions."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib import resources
from pathlib import Path

from layersmith.report import additivity, facts, floors, healing, heatmap, layout, pareto, samples, tables, units, words
from layersmith.report.markup import Child, Markup, tag
from layersmith.report.reading import Json, divergence_of, finite, get


def write(result: Json, path: str | os.PathLike[str]) -> Path:
    """Write `result` (parsed result.json) as one self-contained HTML file, atomically. Returns the path."""
    path = Path(path)
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(render(result), encoding="utf-8")
    os.replace(unfinished, path)
    return path


def render(result: Json) -> str:
    """The page as a string."""
    not_finite: list[str] = []
    result = finite(result, found=not_finite)
    sections = [s for s in _sections(result) if s is not None]
    script = _asset("page.js")
    body = [
        _header(result, not_finite, sections),
        tag("main", {}, *[section for _, _, section in sections]),
        _footer(result),
        tag("div", {"id": "tip", "hidden": "hidden", "role": "tooltip"}),
        Markup(f'<script type="application/json" id="result">{_embedded(result)}</script>'),
        Markup(f"<script>{script}</script>"),
    ]
    head = [
        tag("meta", {"charset": "utf-8"}),
        tag("meta", {"http-equiv": "Content-Security-Policy", "content": _policy(script)}),
        tag("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        tag("title", {}, f"{_name(result)}: layersmith refit report"),
        Markup(f"<style>{_asset('chart.css')}{_asset('page.css')}</style>"),
    ]
    page = tag("html", {"lang": "en"}, tag("head", {}, *head), tag("body", {}, *body))
    return f"<!doctype html>\n{page}\n"


Section = tuple[str, str, Markup]  # anchor, short title for the navigation, content


def _header(result: Json, not_finite: list[str], sections: list[Section]) -> Markup:
    model = result.get("model") or {}
    parts = [f"{model['layers']} layers" if model.get("layers") else "", model.get("architecture") or ""]
    size = f"{units.count(model['params'])} parameters" if model.get("params") else ""
    about = ", ".join(p for p in [parts[1], parts[0], size] if p)
    links = [tag("a", {"href": f"#{anchor}"}, title) for anchor, title, _ in sections]
    compared = words.comparison(result)
    return tag(
        "header",
        {},
        tag("p", {"class": "eyebrow"}, tag("b", {}, _name(result)), f", refitted. {about}"),
        tag("h1", {}, words.headline(result) + "."),
        words.banners(result, not_finite),
        tag("p", {"class": "lead"}, compared) if compared else None,
        tag("p", {"class": "caption"}, " ".join(p for p in [words.conditions(result), words.reloaded(result)] if p)),
        tag("nav", {"aria-label": "sections"}, *links),
    )


def _name(result: Json) -> str:
    """The model's name; of a local path only its last part."""
    name = get(result, "model", "name") or "model"
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) else name


def _sections(result: Json) -> list[Section | None]:
    d = divergence_of(result)
    short = d.short
    return [
        _section("summary", "Summary", "Before and after", tables.summary(result), d.explained),
        _section(
            "pareto",
            "Cost and loss",
            "Cost against loss",
            tag("figure", {}, pareto.draw(result)),
            f"Lower and further left is better. Filled circles were built and measured as a whole; hollow ones are "
            f"what the search predicted for them from one-site measurements, joined by a hairline. Uniform models use "
            f"one method with one setting at one kind of sublayer, as strongly as the budget needs. "
            f"{words.conditions(result)}",
            _fold("All single-method models in numbers", facts.table_of_uniform(result)),
        ),
        _section(
            "layout",
            "Layout",
            "What the model looks like now",
            _figure(layout.draw(result)),
            f"{layout.changes(result)} Every bar is a sublayer; its length is the time it takes alone, on one scale. "
            "Grey was kept, colour was changed, the dashed outline is what stood there before. Numbers without a unit "
            "are parameters.",
        ),
        _section(
            "swaps",
            "Every swap",
            "What each swap costs on its own",
            _figure(heatmap.draw(result)),
            f"{short} of the whole model when only this sublayer is replaced, at the setting of the method with the "
            f"least {short}. Methods are sorted by their median over layers.",
        ),
        _section(
            "floors",
            "Floors",
            "Against the floors",
            _figure(floors.draw(result)),
            "A replacement earns its place only below what is almost free: no output, a constant, one matrix, a thin "
            "pair of matrices. Hollow circles on the base line lie below it.",
            _fold("All floors in numbers", floors.table(result)),
        ),
        _section(
            "prediction",
            "Prediction",
            "Predicted and measured",
            _figure(additivity.draw(result)),
            "The search adds up what single swaps cost. On the dashed line the sum was right; above it the whole model "
            "is worse, or slower, than the sum of its parts.",
            additivity.table(result) if additivity.pairs(result) else None,
        ),
        _section("healing", "Healing", "Healing", _figure(healing.draw(result)), _heal_caption(result)),
        _section(
            "samples",
            "Samples",
            "The same prompts, side by side",
            samples.draw(result),
            "The shared beginning is grey; the bar marks the first character that differs. One different token changes "
            "all that follows, so how late the texts part says more than how much of them differs.",
        ),
        _section("refused", "Refused", "What was refused, and why", facts.refused(result), None),
        _section("time", "Time and memory", "Time and memory of this run", facts.timings(result), None),
        _section("conditions", "Conditions", "Conditions", facts.conditions(result), None),
    ]


def _section(
    anchor: str, short: str, title: str, content: Markup | None, caption: str | None, more: Child = None
) -> Section | None:
    """A section, or None when there is nothing to show."""
    if content is None:
        return None
    below = tag("p", {"class": "caption"}, caption) if caption else None
    return anchor, short, tag("section", {"id": anchor}, tag("h2", {}, title), content, below, more)


def _figure(content: Markup | None) -> Markup | None:
    return None if content is None else tag("figure", {}, content)


def _fold(title: str, content: Markup | None) -> Markup | None:
    return None if content is None else tag("details", {}, tag("summary", {}, title), content)


def _heal_caption(result: Json) -> str:
    heal = result.get("heal") or {}
    words_ = [f"{units.plural(heal['steps'], 'step')}" if heal.get("steps") is not None else ""]
    words_.append(f"{units.count(heal['tokens'])} tokens" if heal.get("tokens") is not None else "")
    end = " It stopped early, when the held-out curve no longer fell." if heal.get("stopped_early") else ""
    start = ", ".join(w for w in words_ if w)
    return f"{start}{'. ' if start else ''}The dashed line is the unhealed model.{end}"


def _footer(result: Json) -> Markup:
    version = get(result, "environment", "layersmith")
    made = f"Made by layersmith {version}" if version else "Made by layersmith"
    date = get(result, "environment", "date")
    return tag(
        "footer",
        {},
        tag("p", {}, tag("button", {"id": "download", "type": "button"}, "Download result.json")),
        tag("p", {}, f"{made}{f' on {date[:10]}' if date else ''}. This file is complete in itself and loads nothing."),
    )


def _embedded(result: Json) -> str:
    """JSON that cannot end its script element, whatever text it holds."""
    written = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written.encode("utf-8", "replace").decode()


def _policy(script: str) -> str:
    """Nothing may be loaded, and no script but this one may run, even if a text slipped through the escaping."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def _asset(name: str) -> str:
    return resources.files("layersmith.report").joinpath(name).read_text(encoding="utf-8")
