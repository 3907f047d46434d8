"""The plain facts of a run: where the time went, what was refused and why, on which machine and with which settings."""

from __future__ import annotations

from collections import defaultdict

from layersmith.report import tables, units
from layersmith.report.markup import Markup, join, tag
from layersmith.report.reading import Json, built_at, divergence_of, get, label, main_cost, named, ratio


def timings(result: Json) -> Markup | None:
    """A bar per stage, longest stage full width; None when nothing was timed."""
    stages = {k: v for k, v in (result.get("timings") or {}).items() if k != "total" and v is not None}
    if not stages:
        return None
    longest = max(max(stages.values()), 1e-9)
    total = get(result, "timings", "total") or sum(stages.values())
    rows = []
    for name, spent in stages.items():
        bar = tag("span", {"class": "time-bar", "style": f"width:{100 * spent / longest:.1f}%"})
        share = f"{100 * spent / total:.0f}\u00a0%" if total else units.EMPTY
        cells = [tag("th", {"scope": "row"}, name), tag("td", {"class": "track"}, bar)]
        rows.append(tag("tr", {}, *cells, tag("td", {}, units.seconds(spent)), tag("td", {}, share)))
    table = tag("table", {"class": "timings"}, tag("tbody", {}, *rows))
    peak = result.get("peak_rss_bytes")
    words = f"{units.seconds(total)} in all"
    words += f"; the process held at most {units.size(peak)} of memory." if peak is not None else "."
    return join([tag("div", {"class": "scroll"}, table), tag("p", {"class": "caption"}, words)])


def refused(result: Json) -> Markup | None:
    """Methods that refused a site, candidates that were refused, and single-method models that missed the budget."""
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for c in result.get("candidates") or []:
        if c.get("refused"):
            reasons[c.get("method", "?"), c["refused"]].append(built_at(c))
    for site, refusals in (result.get("refusals") or {}).items():
        for method, reason in (refusals or {}).items():
            reasons[method, reason or "no reason given"].append(site)
    skipped = sum(1 for c in result.get("candidates") or [] if c.get("kl") is None and not c.get("refused"))
    items = [_refusal(method, reason, sites) for (method, reason), sites in sorted(reasons.items())]
    if skipped:
        words = f"{units.plural(skipped, 'candidate')} were not run in the whole model"
        items.append(
            tag("li", {}, tag("b", {}, words), ": their local error was too large to be worth it (prefilter).")
        )
    missed = sorted(_reached(u) for u in result.get("uniform") or [] if u.get("meets_budget") is False)
    if missed:
        words = f"{units.plural(len(missed), 'single-method model')} cannot meet the budget"
        items.append(tag("li", {}, tag("b", {}, words), f" at any strength, at best: {', '.join(missed)}."))
    return tag("ul", {"class": "refusals"}, *items) if items else None


def _reached(entry: Json) -> str:
    """A single method and the best share of the missed budgets that it reaches: "width ffn (latency 0.812×)"."""
    reach = ", ".join(f"{name} {share:.3f}×" for name, share in (entry.get("reach") or {}).items())
    return f"{label(entry)} ({reach})" if reach else label(entry)


def _refusal(method: str, reason: str, sites: list[str]) -> Markup:
    shown = sorted(set(sites))
    head = [tag("b", {}, method), f": {reason} "]
    if len(shown) <= 3:
        return tag("li", {}, *head, tag("span", {"class": "soft"}, "(" + ", ".join(shown) + ")"))
    fold = tag("details", {}, tag("summary", {}, units.plural(len(shown), "site")), tag("p", {}, ", ".join(shown)))
    return tag("li", {}, *head, fold)


def conditions(result: Json) -> Markup:
    """Model, settings, data and environment, as lists of names and values."""
    blocks = [
        ("Model", {**(result.get("model") or {}), "exported as": result.get("export")}),
        ("Settings", result.get("settings") or {}),
        ("Data", result.get("data") or {}),
        ("Environment", result.get("environment") or {}),
    ]
    drawn = []
    for title, values in blocks:
        pairs = [
            join([tag("dt", {}, name.replace("_", " ")), tag("dd", {}, _value(name, v))])
            for name, v in values.items()
            if v is not None
        ]
        if pairs:
            drawn.append(tag("section", {"class": "facts"}, tag("h3", {}, title), tag("dl", {}, *pairs)))
    return tag("div", {"class": "fact-grid"}, *drawn)


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
    entries = [u for u in everything if get(u, "measured", "kl") is not None]
    if not everything:
        return None
    cost, short = main_cost(result), divergence_of(result).short
    rows = [
        [
            named(u),
            units.ratio(ratio(result, u["measured"], cost)),
            {True: "yes", False: "no"}.get(u.get("meets_budget"), units.EMPTY),
            units.divergence(u["measured"]["kl"]),
            units.percent(u["measured"].get("agreement")),
            units.divergence(get(u, "healed", "kl")),
            units.percent(get(u, "healed", "agreement")),
        ]
        for u in sorted(entries, key=lambda u: u["measured"]["kl"])
    ]
    rows += [
        [named(u), units.ratio(get(u, "reach", cost)), "no", *[units.EMPTY] * 4]
        for u in everything
        if get(u, "measured", "kl") is None
    ]
    head = ["single method", cost, "in budget", short, "agreement", f"{short}, healed", "agreement, healed"]
    return tables.plain(head, rows)
