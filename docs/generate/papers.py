"""All source papers: what each one does, what runs of it by which command, with which evidence, or why nothing does."""

from __future__ import annotations

import json
from functools import cache

import yaml

from generate import races
from generate.evidence import compared_tools, rungs, verdict
from generate.text import chips, inline, table
from layersmith import evidence, standing
from layersmith.papers import KINDS, Paper, papers
from layersmith.standing import Standing

TITLES = {
    "ffn": "Feed-forwards",
    "mixer": "Token mixing",
    "norm": "Normalisation and scaling",
    "block": "Blocks",
    "edit": "Changing trained models",
    "train": "Training",
    "explain": "Looking inside",
    "task": "Tasks",
    "theory": "Theory",
    "domain": "Domains",
    "survey": "Surveys",
    "offtopic": "Off topic",
}
#: Where a thing of each kind is told of; a fold has no page.
PAGES = {
    "part": "catalogue/{}.md",
    "method": "methods.md#{}",
    "adapter": "refit.md#adapters",
    "construction": "constructions.md#{}",
    "tool": "explain.md#{}",
    "task": "tasks.md#{}",
    "optimizer": "optimizers.md#{}",
}


def page() -> str:
    here = sum(not standing.standing(paper).nowhere for paper in papers().values())
    out = [
        "---\nhide: [toc]\n---",
        "# Source papers",
        f"{len(papers())} papers: what each one does in a sentence of ours, what runs of it, by which command, and "
        f"with which evidence, or why nothing does. Parts, methods, folds, adapters, constructions, tools, tasks and "
        f"optimizers are made from {here} of them. Nothing is ticked by its name alone: the last column names the file "
        f"that tests it, and which wrong mechanism that file would notice, and how. What of a paper is not here stands "
        f"with the part or method, as its state, or in that line.",
    ]
    for kind in KINDS:
        rows = [_row(paper) for paper in papers().values() if paper.kind == kind]
        columns = ["paper", "what runs, by which command, with which evidence", "what its test would catch"]
        out += [f"## {TITLES[kind]}", table(columns, rows)]
    return "\n\n".join(out) + "\n"


def _row(paper: Paper) -> list[str]:
    stands = standing.standing(paper)
    number = f" {paper.arxiv}" if paper.arxiv else ""
    first = f'<a id="{paper.id}"></a>{_title(paper)}{number}<br>{inline(paper.mechanism)}'
    runs = [f"nothing: {inline(standing.reason(paper))}"] if stands.nowhere else _runs(stands)
    caught = f"`{paper.test}`<br>{inline(paper.catches)}" if paper.catches else "not told yet" * (not stands.nowhere)
    return [first, "<br>".join([*runs, *_raced().get(paper.id, [])]), caught]


def _title(paper: Paper) -> str:
    title = f"**{inline(paper.title)}**"
    return f"[{title}]({paper.link})" if paper.link else title


def _runs(stands: Standing) -> list[str]:
    """What runs, each with its command; then what was measured of the paper's claims."""
    told = []
    for kind, name, command in stands.commands:
        linked = f"[{name}]({PAGES[kind].format(name)})" if kind in PAGES else f"`{name}`"
        held = f" {rungs(evidence.of(name).rungs)}" if kind == "part" else ""
        if kind == "tool" and any(tool == name and one.equal for tool, one in compared_tools()):
            held = f" {chips([('yes', 'official')])}"
        told.append(f"{kind} {linked}: `{command}`{held}")
    for part, claim in stands.claims:
        told.append(f"{verdict(claim.verdict)} {inline(claim.claim)} ({part}: {inline(claim.measured)})")
    return told


@cache
def _raced() -> dict[str, list[str]]:
    """Paper -> a line for each race that compares what it claims, with the outcome of those that were published."""
    told: dict[str, list[str]] = {}
    for path in sorted(races.RACES.glob("*.yaml")):
        race = yaml.safe_load(path.read_text(encoding="utf-8"))
        record = races.PUBLISHED / f"{path.stem}.json"
        word = json.loads(record.read_text(encoding="utf-8"))["expected"]["word"] if record.exists() else ""
        outcome = chips([(races.VERDICTS[word], word)]) if word else chips([("missing", "not run")])
        where = f"[{path.stem}](races.md#{path.stem})" if word else f"`{path.stem}`"
        line = f"race {where}: `layersmith race races/{path.name}` {outcome} {inline(race['claim'])}"
        for key in race.get("papers", []):
            told.setdefault(key, []).append(line)
    return told
