"""What a result says, in the few questions every chart asks: which ratio, which divergence, which site, which was best.

All functions take parsed `result.json` (or a part of it) and accept missing keys and nulls.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from layersmith.report import units

Json = dict[str, Any]


@dataclass(frozen=True)
class Quantity:
    """One budgeted quantity: the field that holds it, its name in a sentence, how to write it."""

    field: str
    title: str
    write: Callable[[float | None], str]


COSTS = {
    "latency": Quantity("latency_ms", "latency", units.milliseconds),
    "params": Quantity("params", "parameters", units.count),
    "bytes": Quantity("bytes", "weight bytes", units.size),
    "flops": Quantity("flops", "FLOPs", units.flops),
    "kv": Quantity("kv_bytes", "KV-cache bytes", units.size),
}


@dataclass(frozen=True)
class Divergence:
    """What `divergence` means in this result: its unit, and two sentences for someone who never met it."""

    unit: str
    explained: str


_KL = (
    "The divergence says how far the refitted model's distribution over {what} lies from the original's: "
    "the Kullback-Leibler divergence on held-out data, in {unit}; 0 means identical."
)
NEXT_TOKENS = Divergence("nats per token", _KL.format(what="next tokens", unit="nats per token"))
PREDICTIONS = Divergence("nats per prediction", _KL.format(what="answers", unit="nats per prediction"))
RELATIVE_ERROR = Divergence(
    "relative squared error",
    "The divergence is a relative squared error: the squared distance of the last hidden states from the original's, "
    "divided by their squared length, on held-out data; 0 means identical, 1 is as far off as an output of zeros.",
)


@dataclass(frozen=True)
class Place:
    """A site's position, from its name: "decoder.layers.3.cross_attn" is ("decoder", 3, "cross_attn").

    A site outside the numbered layers (a final norm) has no layer, and its name is its role.
    """

    stack: str
    layer: int | None
    role: str

    @property
    def title(self) -> str:
        """In words. A mixer's address is `attn` whether or not it is an attention; decoders' second one always is."""
        role = self.role.replace("cross_attn", "cross-attention").replace("attn", "mixer")
        return f"{self.stack} {role}".strip().replace("_", " ")

    @property
    def row(self) -> str:
        """What the layer is called in a list of the layers of one stack."""
        return self.title if self.layer is None else f"layer {self.layer}"


def place(site: str) -> Place:
    """Where a site sits."""
    match = re.fullmatch(r"(?:(.+?)\.)?layers\.(\d+)(?:\.(.+))?", site)
    return Place(match[1] or "", int(match[2]), match[3] or "block") if match else Place("", None, site)


def divergence_of(result: Json) -> Divergence:
    """What was compared: distributions over next tokens or over other answers, or hidden states."""
    kind = result.get("divergence_kind") or get(result, "chosen", "measured", "divergence_kind")
    if kind not in (None, "kl"):
        return RELATIVE_ERROR
    return NEXT_TOKENS if what_agrees(result) == "next tokens" else PREDICTIONS


def main_cost(result: Json) -> str:
    """The budget the charts are drawn over: latency wherever it is bounded or nothing is, else the first bound."""
    budget = get(result, "settings", "budget") or {}
    return "latency" if "latency" in budget or not budget else next(k for k in budget if k in COSTS)


def get(data: Any, *path: str) -> Any:
    """data[path[0]][path[1]]..., or None as soon as something is missing or null."""
    for key in path:
        if not isinstance(data, dict):
            return None
        data = data.get(key)
    return data


def ratio(result: Json, part: Json | None, cost: str) -> float | None:
    """A part's cost relative to the original's. A `latency_ratio` measured interleaved is preferred to a quotient."""
    if cost == "latency" and get(part, "latency_ratio") is not None:
        return float(get(part, "latency_ratio"))
    ours, original = get(part, COSTS[cost].field), get(result, "baseline", COSTS[cost].field)
    return None if ours is None or not original else ours / original


def bound_of(result: Json, cost: str) -> float | None:
    """The budget of a cost, as a share of the original's."""
    return get(result, "settings", "budget", cost)


def share_of(result: Json, part: Json | None, cost: str) -> str:
    """A part's cost relative to the original's, as written: one that is over its budget never reads like the budget."""
    return units.against(ratio(result, part, cost), bound_of(result, cost))


def missed(result: Json) -> dict[str, tuple[float, float]]:
    """Budget name -> (measured share, bound) of every budget that the final model is over; all of them if unclear."""
    final, bounds = get(result, "chosen", "measured"), get(result, "settings", "budget") or {}
    shares = {n: (share, b) for n, b in bounds.items() if n in COSTS and (share := ratio(result, final, n)) is not None}
    over = {name: (share, bound) for name, (share, bound) in shares.items() if share > bound}
    return over or shares


def setting(settings: Json | None) -> str:
    """{"keep": 0.5, "bits": 4} -> "keep=0.5 bits=4"."""
    return " ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in (settings or {}).items())


def named(entry: Json) -> str:
    """A candidate as "width keep=0.5"; a uniform entry as "drop mixer at 7 sites"."""
    settings = dict(entry.get("settings") or {})
    sites = settings.pop("sites", None)
    everywhere = "" if sites is None else f" at {units.plural(sites, 'site')}"
    return f"{label(entry)} {setting(settings)}".strip() + everywhere


def rank_of_role(role: str) -> int:
    """Sublayers that do the work first, then whole blocks, then norms: the order of the panels."""
    return 2 if role.endswith("norm") else int(role == "block")


def label(entry: Json) -> str:
    """A candidate's method; a uniform entry's method and the kind of site it was used at."""
    return entry.get("label") or entry.get("method", "?")


def built_at(candidate: Json) -> str:
    """The site a candidate was built at. It may decide others as well: a block all its parts, a drop also its norm."""
    return candidate["id"].split("/", 1)[0]


def final_and_unhealed(result: Json) -> tuple[Json | None, Json | None]:
    """Measurements of the final model, and of the same model before healing where a healed state was kept."""
    chosen = result.get("chosen") or {}
    final = chosen.get("measured") or chosen.get("unhealed")
    healed = chosen.get("healed") is not None and not chosen.get("rolled_back")
    return final, chosen.get("unhealed") if healed else None


def kept_of(result: Json) -> Json | None:
    """The point of the healing curve that was kept: the best one, or the first after a roll back."""
    known = [p for p in get(result, "heal", "curve") or [] if p.get("heldout_divergence") is not None]
    if not known:
        return None
    return known[0] if get(result, "heal", "rolled_back") else min(known, key=lambda p: p["heldout_divergence"])


def reach_of(result: Json, entry: Json) -> dict[str, str]:
    """The best share of each missed budget that a single method reaches, as written: {"latency": "0.812×"}."""
    reach = {name: share for name, share in (entry.get("reach") or {}).items() if share is not None}
    return {name: units.against(share, bound_of(result, name), 3) for name, share in reach.items()}


def what_agrees(result: Json) -> str:
    """What `agreement` counts: next tokens, or, for a model that does not write text, its predictions."""
    return "next tokens" if get(result, "baseline", "perplexity") is not None else "predictions"


def best_uniform(result: Json, part: str) -> Json | None:
    """The single-method model within budget with the least divergence in `part` ("measured" or "healed")."""
    fitting = [
        u for u in result.get("uniform") or [] if u.get("meets_budget") and get(u, part, "divergence") is not None
    ]
    return min(fitting, key=lambda u: u[part]["divergence"], default=None)


def rests_on(part: Json) -> str:
    """ " on 12.5% of the text" where the divergence in `part` rests on less than all; "" where on all of it.

    That of a candidate rests on the search data, that of a whole model on the report data.
    """
    share = part.get("scored_on", part.get("measured_on"))
    return "" if share is None or share >= 1 else f" on {units.percent(share)} of the data"


def methods(result: Json) -> list[str]:
    """Every method in the result, in a fixed order, so that one looks the same in every chart."""
    seen = [e.get("method", "?") for key in ("uniform", "candidates") for e in result.get(key) or []]
    return sorted(set(seen))


def chosen_ids(result: Json) -> set[str]:
    """Ids of the candidates in the chosen model."""
    choice = get(result, "chosen", "choice") or {}
    return {c for c in choice.values() if c != "keep"} | set(get(result, "chosen", "candidates") or [])


def finite(value: Any, path: str = "result", found: list[str] | None = None) -> Any:
    """A copy in which NaN and infinities are null, so that it is JSON; `found` collects where they stood."""
    if isinstance(value, dict):
        return {str(k): finite(v, f"{path}.{k}", found) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v, f"{path}[{i}]", found) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        if found is not None:
            found.append(path)
        return None
    return value
