"""All source papers: what each one does, and where it stands."""

from __future__ import annotations

from generate.text import inline, table
from layersmith import standing
from layersmith.papers import KINDS, Paper, papers

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


def page() -> str:
    here = sum(not standing.standing(paper).nowhere for paper in papers().values())
    out = [
        "# Source papers",
        f"{len(papers())} papers: what each one does in a sentence of ours, and where it stands. Parts, methods, "
        f"folds, adapters, constructions, tools, tasks and optimizers are made from {here} of them.",
    ]
    for kind in KINDS:
        rows = [
            [f'<a id="{p.id}"></a>{p.arxiv or ""}', f"{_title(p)}<br>{inline(p.mechanism)}", _standing(p)]
            for p in papers().values()
            if p.kind == kind
        ]
        out += [f"## {TITLES[kind]}", table(["arXiv", "title, mechanism", "where it stands"], rows)]
    return "\n\n".join(out) + "\n"


def _title(paper: Paper) -> str:
    title = f"**{inline(paper.title)}**"
    return f"[{title}]({paper.link})" if paper.link else title


def _standing(paper: Paper) -> str:
    stands = standing.standing(paper)
    told = [f"part [{name}](catalogue/{name}.md)" for name in stands.parts]
    told += [f"method [{name}](methods.md#{name})" for name in stands.methods]
    told += [f"fold `{name}`" for name in stands.folds]
    told += [f"adapter [{name}](refit.md#adapters)" for name in stands.adapters]
    told += [f"construction [{name}](constructions.md#{name})" for name in stands.constructions]
    told += [f"tool [{name}](explain.md#{name})" for name in stands.tools]
    told += [f"task [{name}](tasks.md#{name})" for name in stands.tasks]
    told += [f"optimizer [{name}](optimizers.md#{name})" for name in stands.optimizers]
    return "<br>".join(told) or inline(standing.reason(paper))
