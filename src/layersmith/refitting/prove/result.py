"""The result file: everything a run measured, as one JSON document (docs/result.md describes it)."""

from __future__ import annotations

import resource
import sys
from dataclasses import asdict
from typing import Any

from layersmith.measuring.environment import environment
from layersmith.measuring.inputs import placement
from layersmith.refitting.context import Run
from layersmith.refitting.heal.distillation import Healing
from layersmith.refitting.methods import FLOORS

SCHEMA = "layersmith.refit/1"


def assemble(
    run: Run,
    settings: Any,
    variants: dict[str, Any],
    healing: Healing | None,
    final: dict[str, Any],
    saved: dict[str, Any],
) -> dict[str, Any]:
    refitted = final["refitted"]
    original = final["original"]
    candidates = run.library.candidates.values()
    config = getattr(run.model, "config", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "schema": SCHEMA,
        "model": {
            "name": run.name,
            "architecture": type(run.model).__name__,
            "params": original["params"],
            "layers": sum(len(b) for b in run.anatomy.blocks.values()),
            "d_model": getattr(config, "hidden_size", run.anatomy.sites[0].d_model),
        },
        "environment": environment(placement(run.model)[0]),
        "settings": asdict(settings),
        "data": run.batches.tokens(),
        "baseline": {**original, "nonsite_latency_ms": run.costs.outside["latency"]},
        "sites": [_site(run, site) for site in run.anatomy.sites],
        "candidates": [{k: v for k, v in c.to_json().items() if k != "edits"} for c in candidates],
        "refusals": {name: r.refusals for name, r in run.reports.items() if r.refusals},
        "front": variants["front"],
        "uniform": variants["uniform"],
        "chosen": {
            "candidates": run.selection.chosen,
            **variants["chosen"],
            "healed": None if healing is None else refitted,
            "rolled_back": bool(healing and healing.rolled_back),
            "measured": refitted,
            "meets_budget": run.meets(refitted, settings.budget),
            "samples": final["samples"],
        },
        "heal": None if healing is None else healing.to_json(),
        "solver": {
            "additivity": {
                "predicted_kl": run.selection.predicted_kl,
                "measured_kl": run.selection.joint_kl,
            },
            "solutions_measured": run.selection.solutions_measured,
            "refinement": run.selection.refinement,
            "effective_budget": run.selection.effective_budget,
        },
        **saved,
        "timings": {**run.clock.seconds, "total": sum(run.clock.seconds.values())},
        "peak_rss_bytes": peak,
    }


def _site(run: Run, site: Any) -> dict[str, Any]:
    """One row of the sites table: what stands there, its cost, and the four floors."""
    at = {c.method: c for c in run.library.at(site.name)}
    errors = run.reports[site.name].floors if site.name in run.reports else {}
    cost = run.costs.of_site.get(site.name, {})
    return {
        "name": site.name,
        "kind": site.kind,
        "modules": list(site.modules),
        "latency_ms": cost.get("latency"),
        "params": cost.get("params"),
        "flops": cost.get("flops"),
        "floors": {
            floor: {"local_error": errors[floor], "kl": at[method].kl if method in at else None}
            for floor, method in FLOORS.items()
            if floor in errors
        },
    }
