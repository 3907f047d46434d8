"""Synthetic but realistic result files: every shape of outcome a refit can have, from a seed."""

from __future__ import annotations

import copy
import math
from random import Random

from .pieces import METHODS, Json, candidates, front, harm, part, sites, uniform

PROMPT = "def read_lines(path):\n    "
TEXT = 'with open(path, encoding="utf-8") as file:\n        return [line.rstrip("\\n") for line in file]\n'
#: Divergences of one and the same mix: on the data that the search decides by, and on that of the report.
SEARCHED, REFINED, UNHEALED, HEALED = 0.066, 0.061, 0.055, 0.021


def make_result(
    layers: int = 8,
    heal: str = "kept",  # "kept", "rolled_back" or "none"
    met: bool = True,
    encoder: bool = False,
    stack: str = "",
    budget: str = "latency",
    seed: int = 0,
) -> Json:
    """A whole result.json of schema layersmith.refit/2."""
    random = Random(seed)
    at = sites(layers, stack, random)
    harms = {s["name"]: harm(s, layers, random) for s in at}
    for site in at:
        site["floors"] = _floors(harms[site["name"]], random)
    found = [c for s in at for c in candidates(s, harms[s["name"]], encoder, random)]
    total = sum(s["latency_ms"] for s in at if s["kind"] != "block") * 1.25
    params = sum(s["params"] for s in at if s["kind"] != "block") + 400_000
    chosen = _chosen(at, found, layers, random) | _measured(total, params, heal, met, encoder)
    result = {
        "schema": "layersmith.refit/2",
        "model": _model(layers, params, encoder),
        "environment": ENVIRONMENT,
        "settings": _settings(budget),
        "data": {"calibration_tokens": 32768, "search_tokens": 16384, "report_tokens": 32768, "heal_tokens": 1_310_720},
        "baseline": _baseline(total, params, encoder),
        "sites": at,
        "candidates": found,
        "heal": _heal(heal, random),
        "front": [front(r, total, params, encoder, random, budget) for r in (0.9, 0.82, 0.75, 0.68, 0.6)],
        "refusals": {s["name"]: {"carve": "it has no experts to keep"} for s in at if s["kind"] == "ffn"},
        "uniform": uniform(total, params, encoder, heal != "none", random),
        "chosen": {
            **chosen,
            "best_reachable": None if met else {budget: 0.81},
            "samples": [] if encoder else SAMPLES,
        },
        "solver": {
            "additivity": {"predicted_divergence": 0.047, "measured_divergence": REFINED},
            "solutions_measured": 12,
            "refinement": [
                {"to": "layers.1.ffn/width/keep=0.5", "divergence_before": SEARCHED, "divergence_after": REFINED}
            ],
            "effective_budget": {budget: 0.78},
        },
        "reload_max_abs_diff": 0.0,
        "export": "layersmith",
        "timings": dict(TIMINGS),
        "peak_rss_bytes": 1_420_000_000,
    }
    return copy.deepcopy(result)  # tests change what they get


SAMPLES = [
    {"prompt": PROMPT, "original": TEXT, "refitted": TEXT[:49] + "return file.read().splitlines()\n"},
    {"prompt": "import os\n\n\nclass ", "original": "Path:\n    pass\n", "refitted": "Path:\n    pass\n"},
]
ENVIRONMENT = {
    "layersmith": "0.1.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "python": "3.11.9",
    "platform": "Linux-6.1-x86_64-with-glibc2.36",
    "cpu": "Example CPU at 2.60 GHz",
    "instruction_sets": ["avx2", "avx512f"],
    "kernels": "compiled",
    "threads": 2,
    "device": "cpu",
    "date": "2026-01-15T10:22:31+00:00",
    "commit": "b399aeed3f6c0c5c3b1f0a9c5d2a7c1e8f4b6a90",
}
TIMINGS = {
    "calibrate": 12.1,
    "library": 61.8,
    "score": 48.2,
    "search": 9.6,
    "heal": 88.0,
    "measure": 21.4,
    "total": 241.1,
}


def _model(layers: int, params: int, encoder: bool) -> Json:
    return {
        "name": "MiniLM-L6" if encoder else "pocket",
        "architecture": "BertModel" if encoder else "LlamaForCausalLM",
        "params": params,
        "layers": layers,
        "d_model": 192,
    }


def _settings(budget: str) -> Json:
    return {
        "budget": {budget: 0.75},
        "at": "prefill=1x512",
        "data": "stdlib",
        "seed": 0,
        "methods": sorted(METHODS),
        "windows": {"tokens": 512, "calibration": 64, "search": 32, "report": 64},
    }


def _floors(harm: float, random: Random) -> Json:
    shares = {"zero": 1.0, "mean": 0.85, "ridge_linear": 0.45, "rank_r": 0.5}
    return {
        floor: {
            "local_error": min(1.0, share * random.uniform(0.9, 1.0)),
            "divergence": harm * share * random.uniform(0.8, 1.1),
        }
        for floor, share in shares.items()
    }


def _baseline(total: float, params: int, encoder: bool) -> Json:
    baseline = {**part(total, 0.0, params, encoder, 1.0), "nonsite_latency_ms": 0.2 * total}
    baseline |= {"latency_ms_spread": [0.98 * total, 1.03 * total], "samples": [{"prompt": PROMPT, "text": TEXT}]}
    del baseline["divergence"], baseline["agreement"]
    return baseline


def _chosen(at: list[Json], found: list[Json], layers: int, random: Random) -> Json:
    """A block in the middle dropped, and here and there what does little harm."""
    choice = {s["name"]: "keep" for s in at if s["kind"] != "block"}
    dropped = f"{at[0]['name'].split('0.')[0]}{layers // 2}"
    choice |= {s: f"{dropped}/drop/default" for s in choice if s.startswith(dropped + ".")}
    for c in sorted(found, key=lambda c: random.random()):
        gain = (
            c["divergence"] is not None
            and c["divergence"] < 0.02
            and c["method"] in ("width", "low_rank", "drop", "linear", "dyt")
        )
        if gain and all(choice[s] == "keep" for s in c["sites"]) and random.random() < 0.4:
            choice |= dict.fromkeys(c["sites"], c["id"])
    return {"choice": choice, "candidates": sorted({c for c in choice.values() if c != "keep"})}


def _measured(total: float, params: int, heal: str, met: bool, encoder: bool) -> Json:
    """The chosen model as predicted, built, healed and saved."""
    share = 0.74 if met else 0.83
    unhealed = part(share * total, UNHEALED, 0.7 * params, encoder, share)
    healed = part(share * total, HEALED if heal == "kept" else 0.071, 0.7 * params, encoder, share)
    final = dict(healed if heal == "kept" else unhealed)
    final["divergence_kind"] = "relative_squared_error" if encoder else "kl"
    final["latency_ms_spread"] = [0.97 * share * total, 1.04 * share * total]
    return {
        "predicted": {"divergence": 0.047, "latency_ms": 0.745 * total, "params": 0.7 * params},
        "unhealed": unhealed,
        "healed": None if heal == "none" else healed,
        "rolled_back": heal == "rolled_back",
        "measured": final,
        "meets_budget": met,
    }


def _heal(heal: str, random: Random) -> Json | None:
    curve = [
        {
            "step": 20 * i,
            "train_loss": 0.3 * math.exp(-i / 4) + 0.12 + random.uniform(-0.01, 0.01),
            "heldout_divergence": REFINED * (0.38 + 0.62 * math.exp(-i / 3.5))
            if heal == "kept"
            else REFINED + 0.002 * i,
        }
        for i in range(16)
    ]
    if heal == "none":
        return None
    return {
        "tokens": 1_310_720,
        "steps": 300,
        "curve": curve,
        "stopped_early": True,
        "rolled_back": heal == "rolled_back",
    }
