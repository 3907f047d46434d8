"""The source papers: what each one does, in one sentence of our own, and why some of them cannot stand here.

The table is `papers.toml`, read once and validated. Its keys name a paper everywhere in the project: the arXiv id, or,
where we are not sure of one, words of the title. Which parts, methods and folds a paper has is said by these
themselves; `standing` puts it together. What tests a paper's mechanism, and which wrong one that would notice, stands
in the table: nothing counts as done by its name alone.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

#: What a paper contributes: a place in a model, a way to change or train one, a way to look at one, or none of these.
KINDS = ("ffn", "mixer", "norm", "block", "edit", "train", "explain", "task", "theory", "domain", "survey", "offtopic")
ARXIV = re.compile(r"\d{4}\.\d{4,5}")


@dataclass(frozen=True)
class Paper:
    """One source paper.

    id          arXiv id, or words of the title
    mechanism   one sentence in our words
    reason      why nothing of it can stand here; "" for all others
    test        the file that tests what is made from it; "" where nothing is
    catches     "a wrong mechanism: what that file notices of it"; "" where nothing is
    """

    id: str
    title: str
    kind: str
    mechanism: str
    reason: str = ""
    test: str = ""
    catches: str = ""

    @property
    def arxiv(self) -> str | None:
        """The arXiv id, where it is known for sure."""
        return self.id if ARXIV.fullmatch(self.id) else None

    @property
    def link(self) -> str | None:
        return f"https://arxiv.org/abs/{self.arxiv}" if self.arxiv else None

    @property
    def year(self) -> int | None:
        """Year of the first arXiv version, which its id begins with."""
        return 2000 + int(self.id[:2]) if self.arxiv else None


@cache
def papers() -> dict[str, Paper]:
    """All papers by id. ValueError, naming the entry, if the table is not what `Paper` says it is."""
    table = tomllib.loads(files("layersmith").joinpath("papers.toml").read_text(encoding="utf-8"))
    return {key: _paper(key, entry) for key, entry in table.items()}


def named(ids: tuple[str, ...]) -> list[dict[str, str | None]]:
    """The papers of these ids as data: {"id": ..., "arxiv": id or None, "title": ...}."""
    return [{"id": key, "arxiv": papers()[key].arxiv, "title": papers()[key].title} for key in ids]


def _paper(key: str, entry: dict[str, str]) -> Paper:
    optional = {"reason", "test", "catches"}
    known = {field.name for field in fields(Paper)} - {"id"}
    missing = known - optional - entry.keys()
    if missing or entry.keys() - known or not all(isinstance(v, str) and v.strip() for v in entry.values()):
        told = f"must hold {sorted(known)} as non-empty strings ({', '.join(sorted(optional))} may be absent)."
        raise ValueError(f"papers.toml: [{key}] {told}")
    if entry["kind"] not in KINDS:
        raise ValueError(f"papers.toml: [{key}] has the kind {entry['kind']!r}, which is unknown.")
    if ("test" in entry) != ("catches" in entry) or ("reason" in entry and "test" in entry):
        raise ValueError(f"papers.toml: [{key}] must hold test and catches together, and neither beside a reason.")
    return Paper(id=key, **entry)
