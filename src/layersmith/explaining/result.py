"""What `explain` returns, and the document behind it: `result.json` (docs/explain.md describes it)."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

SCHEMA = "layersmith.explain/1"


@dataclass(frozen=True)
class ExplainResult:
    """What an explanation came to. `result["key"]` reads any entry of the whole document.

    folder    where `result.json` and `report.html` are
    modules   site -> the module that explains it, for `layersmith.swap`; of sites explained in this call (one that
              went on after an interruption has the figures of the others, not their modules), none of a survey
    """

    folder: Path
    document: dict[str, Any] = field(repr=False)
    modules: dict[str, nn.Module] = field(default_factory=dict, repr=False)

    def __getitem__(self, key: str) -> Any:
        return self.document[key]

    def to_json(self) -> dict[str, Any]:
        """The document as it stands in result.json."""
        return self.document


def peak_memory() -> int:
    """Bytes this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
