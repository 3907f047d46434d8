"""What the table of parts says about one part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Entry:
    """One part.

    papers   ids of papers.toml
    example  a small config the contract suite builds
    missing  what of its papers is not there, in words that go on after "without"; "" when nothing is
    """

    target: str
    family: str
    papers: tuple[str, ...]
    example: dict[str, Any]
    missing: str = ""
