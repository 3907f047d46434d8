"""The parts of a synthetic result file: sites, candidates, whole models measured, single-method models."""

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


def sites(layers: int, stack: str, random: Random) -> list[Json]:
    prefix = f"{stack}." if stack else ""
    sites = []
    for n in range(layers):
        parts = {"attn_norm": (192, 0.05), "attn": (147_456, 1.0), "ffn_norm": (192, 0.05), "ffn": (294_912, 1.9)}
        for role, (params, latency) in parts.items():
            kind = {"attn": "mixer", "ffn": "ffn"}.get(role, "norm")
            sites.append(site(f"{prefix}layers.{n}.{role}", kind, params, latency * random.uniform(0.95, 1.05)))
        sites.append(site(f"{prefix}layers.{n}", "block", None, None))
    return sites


def site(name: str, kind: str, params: int | None, latency: float | None) -> Json:
    return {
        "name": name,
        "kind": kind,
        "modules": [f"model.{name}"],
        "params": params,
        "flops": None if params is None else 1024 * params,
        "latency_ms": latency,
    }


def harm(site: Json, layers: int, random: Random) -> float:
    """KL of dropping it: first and last layers matter most, blocks more than their parts."""
    name = site["name"].split("layers.")[1]
    depth = int(name.split(".")[0]) / max(layers - 1, 1)
    middle = 1 - math.sin(math.pi * min(max(depth, 0.02), 0.98))
    base = {"ffn": 0.35, "mixer": 0.12, "norm": 0.6, "block": 0.6}[site["kind"]]
    return base * (0.15 + 3 * middle**2) * 8 / layers * random.uniform(0.6, 1.6)


def candidates(site: Json, harm: float, encoder: bool, random: Random) -> list[Json]:
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
                    "divergence": None if refused or (rough > 0.3 and harm > 0.2) else kl,
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


def part(latency: float, kl: float, params: float, encoder: bool, share: float) -> Json:
    return {
        "latency_ms": latency,
        "latency_ratio": share,
        "divergence": kl,
        "agreement": None if encoder else math.exp(-0.27 * math.sqrt(kl)),
        "perplexity": None if encoder else 9.4 * math.exp(kl),
        "bits_per_byte": None if encoder else 1.06 + 0.4 * kl,
        "params": round(params),
        "bytes": round(2 * params),
        "flops": 1024 * params,
        "kv_bytes": 0 if encoder else round(1_572_864 * share),
    }


def front(r: float, total: float, params: float, encoder: bool, random: Random, budget: str) -> Json:
    kl = 0.047 * math.exp(9 * (0.75 - r))
    share = r - random.uniform(0.0, 0.015)
    return {
        "budget": {budget: r},
        "choice": {},
        "predicted": {"divergence": kl, "latency_ms": r * total * 0.995, "params": r * params},
        "measured": part(share * total, kl * random.uniform(1.05, 1.35), share * params, encoder, share),
    }


def uniform(total: float, params: float, encoder: bool, heal: bool, random: Random) -> list[Json]:
    """One per method and kind, at the mildest strength that should meet the budget; some miss it when measured."""
    entries = []
    for method, (kinds, settings, _, harms) in METHODS.items():
        for kind in kinds:
            if method in ("gptq", "rtn", "dyt"):
                continue
            share = random.uniform(0.7, 0.765)
            kl = 0.9 * (0.3 + harms[-1]) * random.uniform(0.3, 1.8)
            healed = part(share * total, kl * 0.4, share * params, encoder, share) if heal else None
            entries.append(
                {
                    "method": method,
                    "label": f"{method} {kind}",
                    "settings": settings[-1] if len(settings) > 1 else {**settings[0], "sites": 5},
                    "predicted": {"divergence": 0.7 * kl, "latency_ms": share * total * 1.01},
                    "measured": part(share * total, kl, share * params, encoder, share),
                    "healed": healed,
                    "meets_budget": share <= 0.75,
                    "reach": None if share <= 0.75 else {"latency": share},
                }
            )
    # At its strongest it gets no further, so its quality was not measured.
    weak = {"predicted": {"divergence": 0.5, "latency_ms": 0.93 * total}, "measured": None, "healed": None}
    reach = {"meets_budget": False, "reach": {"latency": 0.9312}}
    return [*entries, {"method": "low_rank", "label": "low_rank mixer", "settings": {"rank": 8}, **weak, **reach}]
