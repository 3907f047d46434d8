"""The generated pages as Markdown: parts, evidence, methods, races, what was explained, source papers and so on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from layersmith import catalogue

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))  # record.py reads the committed records

from generate import architectures, constructions, evidence, explained, methods, optimizers, papers, parts, races, tasks
from generate.text import FAMILIES


def pages() -> dict[str, str]:
    """Path inside docs/ -> Markdown."""
    return {
        "catalogue/index.md": parts.index(),
        **{f"catalogue/{name}.md": parts.page(name) for name in catalogue.ENTRIES},
        "evidence.md": evidence.evidence_page(),
        "claims.md": evidence.claims_page(),
        "methods.md": methods.page(),
        "constructions.md": constructions.page(),
        "papers.md": papers.page(),
        "tasks.md": tasks.page(),
        "optimizers.md": optimizers.page(),
        "races.md": races.page(),
        "explained.md": explained.page(),
        "architectures.md": architectures.page(),
    }


def navigation() -> list[dict[str, Any]]:
    """The parts by family, as mkdocs lists pages."""
    return [
        {title: [{name: f"catalogue/{name}.md"} for name, e in catalogue.ENTRIES.items() if e.family == family]}
        for family, title in FAMILIES.items()
        if any(e.family == family for e in catalogue.ENTRIES.values())
    ]
