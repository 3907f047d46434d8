"""The sentences at the top of the page: what came out, how it compares, and what the reader must not overlook."""

from __future__ import annotations

from layersmith.report import units
from layersmith.report.markup import Markup, join, tag
from layersmith.report.reading import (
    COSTS,
    Json,
    best_uniform,
    divergence_of,
    final_and_unhealed,
    get,
    main_cost,
    missed,
    named,
    ratio,
    what_agrees,
)


def headline(result: Json) -> str:
    """One sentence: the price and the gain, as measured."""
    final, _ = final_and_unhealed(result)
    if not final:
        return "This run ended without a refitted model."
    cost = main_cost(result)
    share = units.ratio(ratio(result, final, cost))
    sentence = f"{share} the {COSTS[cost].title} of the original at {divergence_of(result).of(get(final, 'kl'))}"
    agreement = get(final, "agreement")
    return (
        f"{sentence}; {units.percent(agreement)} of {what_agrees(result)} agree" if agreement is not None else sentence
    )


def comparison(result: Json) -> str | None:
    """The searched model against the best single method, like with like: both healed, or both not."""
    chosen = result.get("chosen") or {}
    final, unhealed = final_and_unhealed(result)
    healed = unhealed is not None and best_uniform(result, "healed") is not None
    ours = get(final if healed or unhealed is None else unhealed, "kl")
    best = best_uniform(result, "healed" if healed else "measured")
    if ours is None or not result.get("uniform"):
        return None
    if best is None:
        return "No single method meets the budget on its own."
    theirs = best["healed" if healed else "measured"]["kl"]
    reached = divergence_of(result).of(theirs)
    if chosen.get("meets_budget") is False:
        return f"A single method does meet it: {named(best)}, at {reached}."
    state = "both healed with the same tokens" if healed else "both before healing"
    start = (
        f"Within the same budget the best single method, {named(best)}, reaches {reached} "
        f"where the searched mix has {units.divergence(ours)} ({state})"
    )
    if theirs > ours > 0:
        return f"{start}: {units.significant(theirs / ours, 2)} times as much."
    return f"{start}: here the search brought nothing." if theirs <= ours else f"{start}."


def conditions(result: Json) -> str:
    """Under which conditions the numbers of the page were measured, in one sentence."""
    machine, data = result.get("environment") or {}, result.get("data") or {}
    device = machine.get("device") or "cpu"
    where = machine.get("cpu") if device == "cpu" else device
    parts = []
    if get(result, "settings", "at"):
        parts.append(f"Latency at {get(result, 'settings', 'at')}, measured in turns with the original")
    if where:
        threads = machine.get("threads")
        parts.append(
            f"on {where}" + (f" with {units.plural(threads, 'thread')}" if threads and device == "cpu" else "")
        )
    start = " ".join(parts)
    tokens = data.get("report_tokens")
    text = f"quality on {units.count(tokens)} held-out tokens of {get(result, 'settings', 'data')}" if tokens else ""
    sentence = "; ".join(p for p in (start, text) if p)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def banners(result: Json, not_finite: list[str]) -> Markup:
    """What must not be overlooked: a budget that was missed, a heal that was undone, a reload that differs."""
    return join(
        _banner(title, words)
        for title, words in [_budget(result), _heal(result), _reload(result), _broken(not_finite)]
        if words
    )


def _banner(title: str, words: str) -> Markup:
    return tag("div", {"class": "banner", "role": "note"}, tag("p", {}, tag("b", {}, title), words))


def _budget(result: Json) -> tuple[str, str]:
    chosen = result.get("chosen") or {}
    if chosen.get("meets_budget") is not False:
        return "", ""
    over = []
    for name, (share, bound) in missed(result).items():
        reached, asked = units.apart(share, bound)
        over.append(f"{COSTS[name].title} {reached}× against {asked}×")
    reachable = chosen.get("best_reachable")
    if isinstance(reachable, dict):
        reached = ", ".join(f"{n} {units.ratio(v)}" for n, v in reachable.items() if isinstance(v, (int, float)))
    else:
        reached = f"{COSTS[main_cost(result)].title} {units.ratio(reachable)}" if reachable is not None else ""
    words = f"Measured: {'; '.join(over)}. " if over else ""
    words += f"The best that the offered methods reach on this model and machine: {reached}. " if reached else ""
    return "The budget was not met.", words + "Everything below describes the closest model."


def _heal(result: Json) -> tuple[str, str]:
    if not (get(result, "chosen", "rolled_back") or get(result, "heal", "rolled_back")):
        return "", ""
    words = f"It did not lower the held-out {divergence_of(result).short}, so the unhealed model was kept."
    return "Healing was rolled back.", words


def _reload(result: Json) -> tuple[str, str]:
    difference = result.get("reload_max_abs_diff")
    if difference is None or difference <= 1e-4:
        return "", ""
    words = f"Outputs differ by up to {units.significant(difference)} from what was measured here."
    return "The saved model does not reload exactly.", words


def _broken(not_finite: list[str]) -> tuple[str, str]:
    if not not_finite:
        return "", ""
    shown = ", ".join(not_finite[:5]) + (" and more" if len(not_finite) > 5 else "")
    return "Some numbers are not finite.", f"They are shown as “{units.EMPTY}” and stored as null: {shown}."


def reloaded(result: Json) -> str | None:
    """One sentence on the saved model."""
    difference = result.get("reload_max_abs_diff")
    if difference is None:
        return None
    kind = {"stock": "a stock transformers model", "layersmith": "a model that loads through layersmith"}
    how = kind.get(result.get("export") or "", "a model folder")
    if difference == 0:
        return f"Saved as {how}; reloaded in a fresh process its outputs are exactly those measured."
    off = units.significant(difference, 2)
    return f"Saved as {how}; reloaded in a fresh process its outputs differ by at most {off} from those measured."
