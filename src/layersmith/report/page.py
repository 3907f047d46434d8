"""Fill a page: what any needs, and of a refit its header and sections (templates/refit.html)."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from importlib import resources
from pathlib import Path

from layersmith.disk import put
from layersmith.report import (
    additivity,
    explained,
    facts,
    floors,
    healing,
    heatmap,
    layout,
    pareto,
    raced,
    samples,
    stages,
    tables,
    units,
    words,
)
from layersmith.report.markup import Markup
from layersmith.report.reading import Json, divergence_of, finite, get, what_agrees
from layersmith.report.templating import fill


def write(result: Json, path: str | os.PathLike[str]) -> Path:
    """Write `result` (parsed result.json of any verb) as one self-contained HTML file, atomically. Returns the path."""
    path = Path(path)
    put(path, render(result))
    return path


def render(result: Json) -> str:
    """The page as a string."""
    not_finite: list[str] = []
    result = finite(result, found=not_finite)
    if str(result.get("schema", "")).startswith("layersmith.explain/"):
        return fill("explain.html", {**_frame(result, "explain"), "name": _name(result), **explained.page(result)})
    if str(result.get("schema", "")).startswith("layersmith.race/"):
        return fill("race.html", {**_frame(result, "race"), **raced.page(result)})
    return fill("refit.html", {**_frame(result, "refit"), **_head(result, not_finite), **_sections(result)})


def _frame(result: Json, verb: str) -> dict[str, object]:
    """What any page needs."""
    script = _asset("page.js")
    version, date = get(result, "environment", "layersmith"), get(result, "environment", "date")
    return {
        "title": f"{_name(result)}: layersmith {verb} report",
        "policy": _policy(script),
        "style": Markup(_asset("chart.css") + _asset("page.css")),
        "script": Markup(script),
        "embedded": Markup(_embedded(result)),
        "made": f"Made by layersmith{f' {version}' if version else ''}{f' on {date[:10]}' if date else ''}",
    }


def _head(result: Json, not_finite: list[str]) -> dict[str, object]:
    model = result.get("model") or {}
    layers = f"{model['layers']} layers" if model.get("layers") else ""
    size = f"{units.count(model['params'])} parameters" if model.get("params") else ""
    return {
        "name": _name(result),
        "about": ", ".join(p for p in [model.get("architecture") or "", layers, size] if p),
        "headline": words.headline(result),
        "banners": words.banners(result, not_finite),
        "comparison": words.comparison(result),
        "conditions": words.conditions(result),
        "reloaded": words.reloaded(result),
    }


def _sections(result: Json) -> dict[str, object]:
    """Figures and tables; None where there is nothing to show, which leaves the section out."""
    return {
        "explained": divergence_of(result).explained,
        "agrees": what_agrees(result),
        "summary": tables.summary(result),
        "pareto": pareto.draw(result),
        "uniform": facts.table_of_uniform(result),
        "unreachable": words.unreachable(result),
        "beside": words.beside(result),
        "layout": layout.draw(result),
        "changes": layout.changes(result),
        "swaps": heatmap.draw(result),
        "floors": floors.draw(result),
        "floors_table": floors.table(result),
        "prediction": additivity.draw(result),
        "prediction_table": additivity.table(result) if additivity.pairs(result) else None,
        "aim": words.aim(result),
        "stages": stages.table(result),
        "healing": healing.draw(result),
        "healed": words.healed(result),
        "samples": samples.draw(result),
        "refused": facts.refused(result),
        "time": facts.timings(result),
        "facts": facts.conditions(result),
    }


def _name(result: Json) -> str:
    """The name of the model or task; of a local path only its last part."""
    name = get(result, "model", "name") or get(result, "task", "name") or "model"
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) else name


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
