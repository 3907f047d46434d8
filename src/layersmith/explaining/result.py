"""What `explain` returns, and the document behind it: `result.json` (docs/explain.md describes it)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from layersmith.explaining.context import RunContext
from layersmith.measuring.environment import environment, peak_memory
from layersmith.measuring.inputs import placement

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


def assemble(ctx: RunContext, found: dict[str, Any]) -> dict[str, Any]:
    """The document, as JSON gives it back. found: what the tool came to ("sites"), or the survey ("survey")."""
    document = {
        "schema": SCHEMA,
        "model": {
            "name": ctx.name,
            "architecture": type(ctx.model).__name__,
            "params": sum(parameter.numel() for parameter in ctx.model.parameters()),
            "layers": sum(len(blocks) for blocks in ctx.anatomy.blocks.values()),
        },
        "environment": environment(placement(ctx.model)[0]),
        "tool": {"name": ctx.tool.name, "summary": ctx.tool.summary, "papers": list(ctx.tool.papers)},
        "settings": {
            **ctx.settings,
            "data": ctx.config.data,
            "tokens": ctx.config.tokens,
            "seed": ctx.config.seed,
        },
        "data": ctx.texts.facts,
        "notes": list(ctx.anatomy.notes),
        **found,
        "timings": {**ctx.clock.seconds, "total": sum(ctx.clock.seconds.values())},
        "peak_rss_bytes": peak_memory(),
    }
    read: dict[str, Any] = json.loads(json.dumps(document))
    return read
