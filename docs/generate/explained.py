"""What `explain` found in real models, from the records in benchmarks/explain and tables of benchmarks/results."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import record

from generate.text import inline, table

FOUND = Path(__file__).resolve().parents[2] / "benchmarks" / "explain"
#: What the divergence of `predicts-MODEL.json` is.
MEASURES = {"kl": "divergence in nats", "relative_squared_error": "relative squared error of what the model gives"}
#: Column of results/dictionaries-MODEL.csv -> heading; of results/symbolic_headline-MODEL.csv below.
JUDGED = {
    "site": "site",
    "what": "in its place",
    "seed": "seed",
    "active": "active",
    "local_error": "local error",
    "divergence": "KL",
    "loss_recovered": "loss recovered",
    "agreement": "same token",
    "shared": "shared by seeds",
    "verdict": "at least on par",
}
WRITTEN = {
    "layers": "layers",
    "way": "in their place",
    "perplexity": "perplexity",
    "divergence": "KL",
    "agreement": "same token",
    "prefill_faster": "prefill",
    "decode_faster": "decode",
    "bytes_share": "bytes",
}


def page() -> str:
    out = [
        "# Explained",
        "What `explain` found, measured on the machines that are named; a script in `benchmarks/` renews each.",
    ]
    for path in sorted(FOUND.glob("map.json")):
        found = _read(path)
        out += ["## The map of pocket", "![a row a block, a column a statistic](img/map.svg)", _conditions(found)]
    for path in sorted(FOUND.glob("feature.json")):
        out += ["## A feature", "![its histogram and passages](img/feature.svg)", _conditions(_read(path))]
    for path in sorted(FOUND.glob("predicts-*.json")):
        out += _predicted(path.stem.partition("-")[2], _read(path))
    for name, section in (("dictionaries", _dictionaries), ("symbolic_headline", _symbolic), ("acdc", _acdc)):
        for path in sorted(record.RESULTS.glob(f"{name}-*.csv")):
            out += section(path.stem.partition("-")[2], _rows(path))
    return "\n\n".join(out) + "\n"


def _predicted(name: str, found: dict[str, Any]) -> list[str]:
    measure = MEASURES[found["measure"]]
    told = (
        f"Every feed-forward and mixer of {name} was replaced by its best matrix, alone. How well does the order of "
        f"what that costs ({measure}) follow from the map? Spearman's rank correlation over "
        f"{len(found['sites'])} sublayers, and where it lies in 95 % of resampled sets of them."
    )
    ranks = [
        [inline(predictor), f"{each['spearman']:.2f}", f"{each['low']:.2f} to {each['high']:.2f}"]
        for predictor, each in found["ranks"].items()
    ]
    sites = [
        [inline(site["site"]), *(f"{site[key]:.3g}" for key in ("linearity", "fragility", "divergence"))]
        for site in found["sites"]
    ]
    return [
        f"## Does the map of {inline(name)} say what a matrix costs?",
        inline(told),
        table(["ranked by", "correlation", "interval"], ranks, right=[1]),
        table(["sublayer", "linearity", "fragility", f"with the matrix: {measure}"], sites, right=[1, 2, 3]),
        _conditions(found),
    ]


def _dictionaries(name: str, rows: list[dict[str, str]]) -> list[str]:
    first = next(row for row in rows if row["features"])
    told = (
        f"Dictionaries of {first['features']} features, of which {first['k']} may be active at a token, fitted to "
        f"{first['tokens']} tokens in {first['steps']} steps and judged in the place of sublayers of {name} on "
        f"{first['held_out']} held-out ones, beside the floors and each kind's shuffled control. Are transcoders "
        f"at least on par with autoencoders, as arXiv 2406.11944 finds? It speaks of feed-forwards alone "
        f"(`benchmarks/dictionaries.py`)."
    )
    return _section(f"## Transcoders and autoencoders in {inline(name)}", told, JUDGED, rows, right=range(2, 9))


def _symbolic(name: str, rows: list[dict[str, str]]) -> list[str]:
    first = next(row for row in rows if row["nodes"])
    told = (
        f"Written equations between {first['inputs']} and {first['outputs']} principal directions in the place of "
        f"feed-forwards of {name}, beside two controls of the paper, passed on (MLP(x) = x) and projected (the "
        f"feed-forward itself between the projections), and the floors. Prefill and decode: tokens per second over "
        f"the original's (`benchmarks/symbolic_headline.py`)."
    )
    return _section(
        f"## Equations in the feed-forwards of {inline(name)}", told, WRITTEN, rows, right=[0, *range(2, 8)]
    )


def _acdc(name: str, rows: list[dict[str, str]]) -> list[str]:
    columns = {
        "task": "task",
        "edges": "edges",
        "edges_kept": "kept",
        "faithfulness": "faithfulness",
        "faithfulness_of_scores": "of as many by score",
        "attribution_s": "scores, s",
        "acdc_s": "ACDC, s",
        "every_edge_s": "edge by edge, s",
        "faster": "ratio",
    }
    told = (
        f"Edges are taken away while the divergence rises by less than {rows[0]['threshold']} nats each, on "
        f"{rows[0]['pairs']} pairs of prompts. Beside it, what one run of the model for each edge would take "
        f"(`benchmarks/acdc.py`)."
    )
    return _section(f"## ACDC on {inline(name)}", told, columns, rows, right=range(1, 9))


def _section(
    heading: str, told: str, columns: dict[str, str], rows: list[dict[str, str]], right: Iterable[int]
) -> list[str]:
    """A table of results with what it shows above it and its conditions below. `columns`: key -> heading."""
    cells = [[_short(row[key]) for key in columns] for row in rows]
    return [heading, inline(told), table(list(columns.values()), cells, right=right), _where(rows[0])]


def _conditions(found: dict[str, Any]) -> str:
    given = ", ".join(f"{key} {value}" for key, value in found["settings"].items())
    return f"{inline(given)}. {_where(found['environment'])}"


def _where(where: dict[str, Any]) -> str:
    told = f"{where['cpu']}, {where['threads']} threads, torch {where['torch']}, {where['date'][:10]}"
    return inline(f"{told}, commit {str(where['commit'])[:8]}.")


def _short(cell: str) -> str:
    """A number as three digits tell it, anything else as it stands."""
    try:
        return f"{float(cell):.3g}" if "." in cell else inline(cell)
    except ValueError:
        return inline(cell)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
