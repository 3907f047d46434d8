"""The source papers: what each one does, in one sentence of our own, and where it stands in layersmith.

The table is `papers.toml`, read once and validated; ids such as "P034" name a paper everywhere in the project.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

from layersmith.errors import UserError

#: What a paper contributes: a place in a model, a way to change or train one, a way to look at one, or none of these.
KINDS = ("ffn", "mixer", "norm", "block", "edit", "train", "explain", "task", "theory", "domain", "survey", "offtopic")
#: A central, B useful, C a preset or recipe made of other parts, X not buildable here.
TIERS = ("A", "B", "C", "X")


@dataclass(frozen=True)
class Paper:
    """One source paper.

    mechanism   one sentence in our words
    status      "part:NAME", "method:NAME", "task:NAME", "planned", or "not planned: why"
    arxiv       arXiv id where it is known for sure
    """

    id: str
    title: str
    kind: str
    tier: str
    mechanism: str
    status: str
    arxiv: str | None = None

    @property
    def link(self) -> str | None:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None

    @property
    def year(self) -> int | None:
        """Year of the first arXiv version, which its id begins with."""
        return 2000 + int(self.arxiv[:2]) if self.arxiv else None


@cache
def papers() -> dict[str, Paper]:
    """All papers by id. ValueError, naming the entry, if the table is not what `Paper` says it is."""
    table = tomllib.loads(files("layersmith").joinpath("papers.toml").read_text(encoding="utf-8"))
    return {key: _paper(key, entry) for key, entry in table.items()}


def paper(key: str) -> Paper:
    """The paper of that id; a UserError otherwise."""
    if key not in papers():
        raise UserError(f"There is no source paper {key!r}: their ids run from P001 to {list(papers())[-1]}.")
    return papers()[key]


def search(query: str) -> list[Paper]:
    """The papers in which every word of the query occurs: in id, title, kind, mechanism, status or arXiv id."""
    words = query.lower().split()
    return [p for p in papers().values() if all(word in _text(p) for word in words)]


def _text(paper: Paper) -> str:
    return " ".join((paper.id, paper.title, paper.kind, paper.mechanism, paper.status, paper.arxiv or "")).lower()


def _paper(key: str, entry: dict[str, str]) -> Paper:
    known = {field.name for field in fields(Paper)} - {"id"}
    missing = known - {"arxiv"} - entry.keys()
    if missing or entry.keys() - known or not all(isinstance(v, str) and v.strip() for v in entry.values()):
        raise ValueError(f"papers.toml: [{key}] must hold {sorted(known)} as non-empty strings (arxiv may be absent).")
    if entry["kind"] not in KINDS or entry["tier"] not in TIERS:
        raise ValueError(f"papers.toml: [{key}] has the kind {entry['kind']!r} or tier {entry['tier']!r}, unknown.")
    state, _, rest = entry["status"].partition(":")
    if not (entry["status"] == "planned" or (state in ("part", "method", "task", "not planned") and rest.strip())):
        raise ValueError(f"papers.toml: [{key}] has the status {entry['status']!r}, which says nothing known.")
    return Paper(id=key, **entry)
