"""One section for each construction: idea, formulas, settings, and what `layersmith construct` measures."""

from __future__ import annotations

from generate.text import blocks, inline, paper_link, table
from layersmith import records


def page() -> str:
    out = [
        "# Constructions",
        "Networks whose weights were published on paper: built, not trained, in the parts of the catalogue, in "
        "float64. `layersmith construct NAME` builds one, measures every claim below and prints the numbers; "
        "`--set NAME=VALUE` changes its settings, `--out DIR` saves it. Claims marked *stops* say where a construction "
        "no longer works, and are measured as well.",
    ]
    for record in records.constructions_as_json():
        idea, _, rest = records.construction_text(record["name"]).partition("\n\n")
        papers = "papers " + " ".join(paper_link(paper["id"]) for paper in record["papers"])
        settings = [
            [f"`{name}`", f"{s['default']:g}", f"{s['least']:g} to {s['most']:g}", inline(s["meaning"])]
            for name, s in record["settings"].items()
        ]
        claims = [
            ["stops" if c["limit"] else "does", inline(c["what"]), inline(c["how"]), inline(c["bound"])]
            for c in record["claims"]
        ]
        out += [f"## {record['name']}", f"**{inline(idea)}**", papers, blocks(rest)]
        out += [table(["setting", "default", "bounds", "meaning"], settings)]
        out += [table(["", "claim", "measured as", "bound"], claims)]
    return "\n\n".join(out) + "\n"
