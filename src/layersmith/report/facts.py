"""The plain facts of a run: where the time went, what was refused and why, on which machine and with which settings."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from layersmith.report import tables, units
from layersmith.report.markup import Markup
from layersmith.report.reading import (
    Json,
    bound_of,
    built_at,
    get,
    label,
    main_cost,
    named,
    reach_of,
    rests_on,
    share_of,
)
from layersmith.report.templating import macros


@dataclass(frozen=True)
class Stage:
    """How long a stage took: its bar in per cent of the longest one's, seconds, and the share of the whole run."""

    name: str
    width: str
    spent: str
    share: str


@dataclass(frozen=True)
class Refusal:
    """What was refused, why, and at which sites."""

    what: str
    reason: str
    sites: list[str] = field(default_factory=list)

    @property
    def count(self) -> str:
        return units.plural(len(self.sites), "site")


def timings(result: Json) -> Markup | None:
    """A bar per stage, longest stage full width; None when nothing was timed."""
    spent = {k: v for k, v in (result.get("timings") or {}).items() if k != "total" and v is not None}
    if not spent:
        return None
    longest = max(max(spent.values()), 1e-9)
    total = get(result, "timings", "total") or sum(spent.values())
    stages = [
        Stage(
            name,
            f"{100 * seconds / longest:.1f}",
            units.seconds(seconds),
            f"{100 * seconds / total:.0f}\u00a0%" if total else units.EMPTY,
        )
        for name, seconds in spent.items()
    ]
    peak = result.get("peak_rss_bytes")
    memory = f"; the process held at most {units.size(peak)} of memory." if peak is not None else "."
    return macros("tables.html").timings(stages, f"{units.seconds(total)} in all{memory}")


def refused(result: Json) -> Markup | None:
    """Methods that refused a site, candidates that were refused, and single-method models that missed the budget."""
    reasons: dict[tuple[str, str], set[str]] = defaultdict(set)
    for c in result.get("candidates") or []:
        if c.get("refused"):
            reasons[c.get("method", "?"), c["refused"]].add(built_at(c))
    for site, refusals in (result.get("refusals") or {}).items():
        for method, reason in (refusals or {}).items():
            reasons[method, reason or "no reason given"].add(site)
    items = [Refusal(method, reason, sorted(sites)) for (method, reason), sites in sorted(reasons.items())]
    skipped = sum(1 for c in result.get("candidates") or [] if c.get("divergence") is None and not c.get("refused"))
    if skipped:
        what = f"{units.plural(skipped, 'candidate')} were not run in the whole model"
        items.append(Refusal(what, "their local error was too large to be worth it (prefilter)."))
    glanced = [c for c in result.get("candidates") or [] if rests_on(c)]
    if glanced:
        what = f"{units.plural(len(glanced), 'candidate')} had no more than a first look"
        items.append(Refusal(what, f"no best mix held them; scored{rests_on(glanced[0])}."))
    missed = sorted(_reached(result, u) for u in result.get("uniform") or [] if u.get("meets_budget") is False)
    if missed:
        what = f"{units.plural(len(missed), 'single-method model')} cannot meet the budget"
        items.append(Refusal(what, f"not at any strength; at best {', '.join(missed)}."))
    return macros("facts.html").refusals(items) if items else None


def _reached(result: Json, entry: Json) -> str:
    """A single method and the best share of the missed budgets that it reaches: "width ffn (latency 0.812×)"."""
    reach = ", ".join(f"{name} {share}" for name, share in reach_of(result, entry).items())
    return f"{label(entry)} ({reach})" if reach else label(entry)


def conditions(result: Json) -> Markup | None:
    """Model, settings, data and environment, as lists of names and values; None when none is known."""
    blocks = {
        "Model": {**(result.get("model") or {}), "exported as": result.get("export")},
        "Settings": result.get("settings") or {},
        "Data": result.get("data") or {},
        "Environment": result.get("environment") or {},
    }
    pairs = [
        (title, [(name.replace("_", " "), _value(name, v)) for name, v in values.items() if v is not None])
        for title, values in blocks.items()
    ]
    return macros("facts.html").conditions(pairs) if any(values for _, values in pairs) else None


def _value(name: str, value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_value(k, v)}" for k, v in value.items()) or units.EMPTY
    if isinstance(value, list):
        return ", ".join(_value(name, v) for v in value) or units.EMPTY
    if name == "params" and isinstance(value, (int, float)):
        return units.count(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) and abs(value) >= 10000:
        return f"{value:,}".replace(",", "\u202f")
    return "none" if value is None else str(value)


def table_of_uniform(result: Json) -> Markup | None:
    """All single-method models in numbers, best first; then those that cannot meet the budget, with their best."""
    everything = result.get("uniform") or []
    if not everything:
        return None
    measured = [u for u in everything if get(u, "measured", "divergence") is not None]
    weak = [u for u in everything if get(u, "measured", "divergence") is None]
    cost = main_cost(result)
    rows = [
        [
            named(u),
            share_of(result, u["measured"], cost),
            _within(result, u),
            units.divergence(u["measured"]["divergence"]) + rests_on(u["measured"]),
            units.percent(u["measured"].get("agreement")),
            units.divergence(get(u, "healed", "divergence")),
            units.percent(get(u, "healed", "agreement")),
        ]
        for u in sorted(measured, key=lambda u: u["measured"]["divergence"])
    ]
    rows += [
        [named(u), units.against(get(u, "reach", cost), bound_of(result, cost)), _within(result, u), *[units.EMPTY] * 4]
        for u in weak
    ]
    quality = ["divergence", "agreement"]
    head = ["single method", cost, "in budget", *quality, *[f"{name}, healed" for name in quality]]
    return tables.plain(head, rows)


def _within(result: Json, entry: Json) -> str:
    """Whether it meets the budget; where it misses another than the one that has a column, how far it gets there."""
    if entry.get("meets_budget") is None:
        return units.EMPTY
    reach = {name: share for name, share in reach_of(result, entry).items() if name != main_cost(result)}
    best = f", at best {', '.join(f'{name} {share}' for name, share in reach.items())}" if reach else ""
    return "yes" if entry["meets_budget"] else f"no{best}"
