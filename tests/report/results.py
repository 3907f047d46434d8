"""Synthetic but realistic result files: every shape of outcome a refit can have, from a seed."""

from __future__ import annotations

import math
from random import Random
from typing import Any

Json = dict[str, Any]

#: method -> kinds it applies to, settings from gentle to rough, share of the cost left, harm relative to dropping
METHODS: dict[str, tuple[tuple[str, ...], list[Json], list[float], list[float]]] = {
    "width": (("ffn",), [{"keep": 0.75}, {"keep": 0.5}, {"keep": 0.25}], [0.78, 0.55, 0.32], [0.05, 0.15, 0.4]),
    "rank_r": (("ffn", "mixer"), [{"rank": 64}, {"rank": 24}], [0.6, 0.35], [0.22, 0.45]),
    "low_rank": (("ffn", "mixer"), [{"keep": 0.6}, {"keep": 0.4}], [0.8, 0.6], [0.06, 0.16]),
    "gptq": (("ffn", "mixer"), [{"bits": 8}, {"bits": 4}, {"bits": 3}], [1.04, 1.2, 1.25], [0.0005, 0.01, 0.05]),
    "rtn": (("ffn", "mixer"), [{"bits": 8}, {"bits": 4}], [1.04, 1.2], [0.0006, 0.03]),
    "top_k": (("ffn",), [{"share": 0.5}], [0.9], [0.02]),
    "gr_kan": (("ffn",), [{"groups": 8, "d_hidden": 256}], [0.7], [0.2]),
    "linear": (("ffn", "mixer", "block"), [{}], [0.15], [0.5]),
    "mean": (("ffn", "mixer"), [{}], [0.01], [0.9]),
    "drop": (("ffn", "mixer", "block"), [{}], [0.0], [1.0]),
    "merge_kv": (("mixer",), [{"kv_heads": 1}], [0.85], [0.1]),
    "linear_attention": (("mixer",), [{"features": 32}], [0.7], [0.25]),
    "dyt": (("norm",), [{}], [0.4], [0.08]),
}
PROMPT = "def read_lines(path):\n    "
TEXT = 'with open(path, encoding="utf-8") as file:\n        return [line.rstrip("\\n") for line in file]\n'


def make_result(
    layers: int = 8,
    heal: str = "kept",  # "kept", "rolled_back" or "none"
    met: bool = True,
    encoder: bool = False,
    stack: str = "",
    budget: str = "latency",
    seed: int = 0,
) -> Json:
    """A whole result.json of schema layersmith.refit/1."""
    random = Random(seed)
    sites = _sites(layers, stack, random)
    harms = {s["name"]: _harm(s, layers, random) for s in sites}
    for site in sites:
        harm = harms[site["name"]]
        shares = {"zero": 1.0, "mean": 0.85, "ridge_linear": 0.45, "rank_r": 0.5}
        site["floors"] = {
            f: {
                "local_error": min(1.0, share * random.uniform(0.9, 1.0)),
                "kl": harm * share * random.uniform(0.8, 1.1),
            }
            for f, share in shares.items()
        }
    candidates = [c for s in sites for c in _candidates(s, harms[s["name"]], encoder, random)]
    total = sum(s["latency_ms"] for s in sites if s["kind"] != "block") * 1.25
    params = sum(s["params"] for s in sites if s["kind"] != "block") + 400_000
    baseline = {**_part(total, 0.0, params, encoder, 1.0), "nonsite_latency_ms": 0.2 * total}
    baseline |= {"latency_ms_spread": [0.98 * total, 1.03 * total], "samples": [{"prompt": PROMPT, "text": TEXT}]}
    del baseline["kl"], baseline["agreement"]
    choice = {s["name"]: "keep" for s in sites if s["kind"] != "block"}
    dropped = f"{sites[0]['name'].split('0.')[0]}{layers // 2}"
    choice |= {s: f"{dropped}/drop/default" for s in choice if s.startswith(dropped + ".")}
    for c in sorted(candidates, key=lambda c: random.random()):
        gain = c["kl"] is not None and c["kl"] < 0.02 and c["method"] in ("width", "low_rank", "drop", "linear", "dyt")
        if gain and all(choice[s] == "keep" for s in c["sites"]) and random.random() < 0.4:
            choice |= dict.fromkeys(c["sites"], c["id"])
    share = 0.74 if met else 0.83
    unhealed = _part(share * total, 0.055, 0.7 * params, encoder, share)
    healed = _part(share * total, 0.021 if heal == "kept" else 0.071, 0.7 * params, encoder, share)
    final = dict(healed if heal == "kept" else unhealed)
    final["divergence_kind"] = "relative_squared_error" if encoder else "kl"
    curve = [
        {
            "step": 20 * i,
            "train_loss": 0.3 * math.exp(-i / 4) + 0.12 + random.uniform(-0.01, 0.01),
            "heldout_kl": 0.055 * (0.38 + 0.62 * math.exp(-i / 3.5)) if heal == "kept" else 0.055 + 0.002 * i,
        }
        for i in range(16)
    ]
    predicted = {"kl": 0.047, "latency_ms": 0.745 * total, "params": 0.7 * params}
    result = {
        "schema": "layersmith.refit/1",
        "model": {
            "name": "MiniLM-L6" if encoder else "pocket",
            "architecture": "BertModel" if encoder else "LlamaForCausalLM",
            "params": params,
            "layers": layers,
            "d_model": 192,
        },
        "environment": {
            "layersmith": "0.1.0",
            "torch": "2.13.0",
            "transformers": "5.23.0",
            "python": "3.11.9",
            "platform": "Linux-6.1-x86_64-with-glibc2.36",
            "cpu": "Example CPU at 2.60 GHz",
            "threads": 2,
            "device": "cpu",
            "date": "2026-01-15T10:22:31+00:00",
            "commit": "b399aeed3f6c0c5c3b1f0a9c5d2a7c1e8f4b6a90",
        },
        "settings": {
            "budget": {budget: 0.75},
            "at": "prefill=1x512",
            "data": "stdlib",
            "seed": 0,
            "methods": sorted(METHODS),
            "windows": {"tokens": 512, "calibration": 64, "search": 32, "report": 64},
        },
        "data": {"calibration_tokens": 32768, "search_tokens": 16384, "report_tokens": 32768, "heal_tokens": 1_310_720},
        "baseline": baseline,
        "sites": sites,
        "candidates": candidates,
        "front": [_front(r, total, params, encoder, random, budget) for r in (0.9, 0.82, 0.75, 0.68, 0.6)],
        "refusals": {s["name"]: {"carve": "it has no experts to keep"} for s in sites if s["kind"] == "ffn"},
        "uniform": list(_uniform(total, params, encoder, heal != "none", random)),
        "chosen": {
            "choice": choice,
            "candidates": sorted({c for c in choice.values() if c != "keep"}),
            "predicted": predicted,
            "unhealed": unhealed,
            "healed": None if heal == "none" else healed,
            "rolled_back": heal == "rolled_back",
            "measured": final,
            "meets_budget": met,
            "best_reachable": None if met else {budget: 0.81},
            "samples": [
                {"prompt": PROMPT, "original": TEXT, "refitted": TEXT[:49] + "return file.read().splitlines()\n"},
                {"prompt": "import os\n\n\nclass ", "original": "Path:\n    pass\n", "refitted": "Path:\n    pass\n"},
            ],
        },
        "heal": {
            "tokens": 1_310_720,
            "steps": 300,
            "curve": curve,
            "stopped_early": True,
            "rolled_back": heal == "rolled_back",
        },
        "solver": {"additivity": {"predicted_kl": 0.047, "measured_kl": 0.055}, "solutions_measured": 12},
        "reload_max_abs_diff": 0.0,
        "export": "layersmith",
        "timings": {
            "calibrate": 12.1,
            "library": 61.8,
            "score": 48.2,
            "search": 9.6,
            "heal": 88.0,
            "measure": 21.4,
            "total": 241.1,
        },
        "peak_rss_bytes": 1_420_000_000,
    }
    if heal == "none":
        result["heal"] = None
    if encoder:
        result["chosen"]["samples"] = []
    return result


def _sites(layers: int, stack: str, random: Random) -> list[Json]:
    prefix = f"{stack}." if stack else ""
    sites = []
    for n in range(layers):
        parts = {"attn_norm": (192, 0.05), "attn": (147_456, 1.0), "ffn_norm": (192, 0.05), "ffn": (294_912, 1.9)}
        for role, (params, latency) in parts.items():
            kind = {"attn": "mixer", "ffn": "ffn"}.get(role, "norm")
            sites.append(_site(f"{prefix}layers.{n}.{role}", kind, params, latency * random.uniform(0.95, 1.05)))
        sites.append(_site(f"{prefix}layers.{n}", "block", None, None))
    return sites


def _site(name: str, kind: str, params: int | None, latency: float | None) -> Json:
    return {
        "name": name,
        "kind": kind,
        "modules": [f"model.{name}"],
        "params": params,
        "flops": None if params is None else 1024 * params,
        "latency_ms": latency,
    }


def _harm(site: Json, layers: int, random: Random) -> float:
    """KL of dropping it: first and last layers matter most, blocks more than their parts."""
    name = site["name"].split("layers.")[1]
    depth = int(name.split(".")[0]) / max(layers - 1, 1)
    middle = 1 - math.sin(math.pi * min(max(depth, 0.02), 0.98))
    base = {"ffn": 0.35, "mixer": 0.12, "norm": 0.6, "block": 0.6}[site["kind"]]
    return base * (0.15 + 3 * middle**2) * 8 / layers * random.uniform(0.6, 1.6)


def _candidates(site: Json, harm: float, encoder: bool, random: Random) -> list[Json]:
    found = []
    is_block = site["kind"] == "block"
    params, latency = (442_752, 3.0) if is_block else (site["params"], site["latency_ms"])
    for method, (kinds, settings, costs, harms) in METHODS.items():
        if site["kind"] not in kinds:
            continue
        for setting, cost, rough in zip(settings, costs, harms, strict=True):
            kl = harm * rough * random.uniform(0.7, 1.4)
            local = min(1.0, rough * random.uniform(0.8, 1.3) + 0.0005)
            refused = None
            if method == "gr_kan" and random.random() < 0.3:
                refused = "the fit did not beat its ridge-linear floor"
            if method == "merge_kv" and encoder:
                refused = "every head has its own keys and values already merged"
            decided = [site["name"]]
            if is_block:
                decided = [f"{site['name']}.{role}" for role in ("attn_norm", "attn", "ffn_norm", "ffn")]
            elif method == "drop":
                decided.append(f"{site['name']}_norm")
            text = ",".join(f"{k}={v}" for k, v in sorted(setting.items()))
            found.append(
                {
                    "id": f"{site['name']}/{method}/{text or 'default'}",
                    "sites": decided,
                    "method": method,
                    "settings": setting,
                    "local_error": local,
                    "kl": None if refused or (rough > 0.3 and harm > 0.2) else kl,
                    "agreement": None if refused or encoder else math.exp(-2.2 * math.sqrt(kl)),
                    "latency_ms": cost * latency,
                    "params": round(min(cost, 1.0) * params),
                    "bytes": round(2 * min(cost, 1.0) * params),
                    "flops": cost * 1024 * params,
                    "kv_bytes": 0,
                    "distilled_steps": 0,
                    "refused": refused,
                    "seconds": random.uniform(0.2, 4.0),
                }
            )
    return found


def _part(latency: float, kl: float, params: float, encoder: bool, share: float) -> Json:
    return {
        "latency_ms": latency,
        "latency_ratio": share,
        "kl": kl,
        "agreement": None if encoder else math.exp(-0.27 * math.sqrt(kl)),
        "perplexity": None if encoder else 9.4 * math.exp(kl),
        "bits_per_byte": None if encoder else 1.06 + 0.4 * kl,
        "params": round(params),
        "bytes": round(2 * params),
        "flops": 1024 * params,
        "kv_bytes": 0 if encoder else round(1_572_864 * share),
    }


def _front(r: float, total: float, params: float, encoder: bool, random: Random, budget: str) -> Json:
    kl = 0.047 * math.exp(9 * (0.75 - r))
    share = r - random.uniform(0.0, 0.015)
    return {
        "budget": {budget: r},
        "choice": {},
        "predicted": {"kl": kl, "latency_ms": r * total * 0.995, "params": r * params},
        "measured": _part(share * total, kl * random.uniform(1.05, 1.35), share * params, encoder, share),
    }


def _uniform(total: float, params: float, encoder: bool, heal: bool, random: Random) -> list[Json]:
    """One per method and kind, at the mildest strength that should meet the budget; some miss it when measured."""
    entries = []
    for method, (kinds, settings, _, harms) in METHODS.items():
        for kind in kinds:
            if method in ("gptq", "rtn", "dyt"):
                continue
            share = random.uniform(0.7, 0.765)
            kl = 0.9 * (0.3 + harms[-1]) * random.uniform(0.3, 1.8)
            healed = _part(share * total, kl * 0.4, share * params, encoder, share) if heal else None
            entries.append(
                {
                    "method": method,
                    "label": f"{method} {kind}",
                    "settings": settings[-1] if len(settings) > 1 else {**settings[0], "sites": 5},
                    "predicted": {"kl": 0.7 * kl, "latency_ms": share * total * 1.01},
                    "measured": _part(share * total, kl, share * params, encoder, share),
                    "healed": healed,
                    "meets_budget": share <= 0.75,
                    "reach": None if share <= 0.75 else {"latency": share},
                }
            )
    # At its strongest it gets no further, so its quality was not measured.
    weak = {"predicted": {"kl": 0.5, "latency_ms": 0.93 * total}, "measured": None, "healed": None}
    reach = {"meets_budget": False, "reach": {"latency": 0.9312}}
    return [*entries, {"method": "low_rank", "label": "low_rank mixer", "settings": {"rank": 8}, **weak, **reach}]
