"""The result file: everything a run measured, as one JSON document (docs/result.md describes it)."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from layersmith.cost import FIELDS, Cost
from layersmith.measuring.environment import environment, peak_memory
from layersmith.measuring.inputs import placement
from layersmith.refitting.context import RunContext
from layersmith.refitting.heal.distillation import Healing
from layersmith.refitting.methods import FLOORS
from layersmith.refitting.search.found import Found, meets

SCHEMA = "layersmith.refit/2"


@dataclass(frozen=True)
class RefitResult:
    """What a refit came to. `result["key"]` reads any entry of the whole document (docs/result.md).

    folder         where `model/`, `result.json` and `report.html` are
    meets_budget   as measured end to end
    original, refitted   measured figures of each: latency_ms, params, bytes, flops, kv_bytes, divergence, ...
    choice         site -> id of the candidate that stands there now, or "keep"
    """

    folder: Path
    document: dict[str, Any] = field(repr=False)

    def __getitem__(self, key: str) -> Any:
        return self.document[key]

    @property
    def meets_budget(self) -> bool:
        return bool(self.document["chosen"]["meets_budget"])

    @property
    def original(self) -> dict[str, Any]:
        return self.document["baseline"]

    @property
    def refitted(self) -> dict[str, Any]:
        return self.document["chosen"]["measured"]

    @property
    def choice(self) -> dict[str, str]:
        return self.document["chosen"]["choice"]

    def to_json(self) -> dict[str, Any]:
        """The document as it stands in result.json."""
        return self.document


def assemble(
    ctx: RunContext,
    found: Found,
    variants: dict[str, Any],
    healing: Healing | None,
    final: dict[str, Any],
    saved: dict[str, Any],
) -> dict[str, Any]:
    refitted = final["refitted"]
    original = final["original"]
    # What a clock says of a model in which nothing is changed is noise: it is printed, and decides nothing.
    changed = found.selection.chosen or any(fold["kept"] for fold in saved["folds"])
    ratio = refitted["latency_ratio"] if changed else 1.0
    shares = found.shares(Cost.from_json(refitted), ratio, ctx.settings.budget)
    candidates = found.built.candidates.values()
    config = getattr(ctx.model, "config", None)
    return {
        "schema": SCHEMA,
        "model": {
            "name": ctx.name,
            "architecture": type(ctx.model).__name__,
            "params": original["params"],
            "layers": sum(len(b) for b in ctx.anatomy.blocks.values()),
            "d_model": getattr(config, "hidden_size", ctx.anatomy.sites[0].d_model),
        },
        "environment": environment(placement(ctx.model)[0]),
        "settings": asdict(ctx.settings),
        "data": ctx.batches.tokens(),
        "baseline": {**original, "nonsite_latency_ms": found.costs.outside.latency_ms},
        "sites": [_site(found, site) for site in ctx.anatomy.sites],
        "candidates": [{k: v for k, v in c.to_json().items() if k != "edits"} for c in candidates],
        "refusals": {name: r.refusals for name, r in found.reports.items() if r.refusals},
        "front": variants["front"],
        "uniform": variants["uniform"],
        "chosen": {
            "candidates": found.selection.chosen,
            **variants["chosen"],
            "healed": None if healing is None else refitted,
            "rolled_back": bool(healing and healing.rolled_back),
            "measured": refitted,
            "meets_budget": meets(shares, ctx.settings.budget),
            "samples": final["samples"],
        },
        "heal": None if healing is None else healing.to_json(),
        "solver": {
            "additivity": {
                "predicted_divergence": found.selection.predicted_divergence,
                "measured_divergence": found.selection.joint_divergence,
            },
            "solutions_measured": found.selection.solutions_measured,
            "refinement": found.selection.refinement,
            "baseline": found.selection.baseline,
            "effective_budget": found.selection.effective_budget,
        },
        **saved,
        "timings": {**ctx.clock.seconds, "total": sum(ctx.clock.seconds.values())},
        "peak_rss_bytes": peak_memory(),
    }


def _site(found: Found, site: Any) -> dict[str, Any]:
    """One row of the sites table: what stands there, its cost, and the four floors."""
    at = {c.method: c for c in found.built.at(site.name)}
    errors = found.reports[site.name].floors if site.name in found.reports else {}
    cost = found.costs.of_site.get(site.name)
    return {
        "name": site.name,
        "kind": site.kind,
        "modules": list(site.modules),
        **(dict.fromkeys(FIELDS.values()) if cost is None else cost.to_json()),
        "floors": {
            floor: {"local_error": errors[floor], "divergence": at[method].divergence if method in at else None}
            for floor, method in FLOORS.items()
            if floor in errors
        },
    }
