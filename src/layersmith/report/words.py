"""The sentences at the top of the page: what came out, how it compares, and what the reader must not overlook."""

from __future__ import annotations

from layersmith.report import units
from layersmith.report.markup import Markup, join
from layersmith.report.reading import (
    COSTS,
    Json,
    best_uniform,
    bound_of,
    final_and_unhealed,
    get,
    main_cost,
    missed,
    named,
    share_of,
    what_agrees,
)
from layersmith.report.templating import macros


def headline(result: Json) -> str:
    """One sentence: the price and the gain, as measured."""
    final, _ = final_and_unhealed(result)
    if not final:
        return "This run ended without a refitted model"
    cost = main_cost(result)
    share = share_of(result, final, cost)
    sentence = f"{share} the {COSTS[cost].title} of the original at {_divergence(get(final, 'divergence'))}"
    agreement = get(final, "agreement")
    return (
        f"{sentence}; {units.percent(agreement)} of {what_agrees(result)} agree" if agreement is not None else sentence
    )


def comparison(result: Json) -> str | None:
    """The searched model against the best single method, like with like: both healed, or both not."""
    chosen = result.get("chosen") or {}
    final, unhealed = final_and_unhealed(result)
    healed = unhealed is not None and best_uniform(result, "healed") is not None
    ours = get(final if healed or unhealed is None else unhealed, "divergence")
    best = best_uniform(result, "healed" if healed else "measured")
    if ours is None or not result.get("uniform"):
        return None
    if best is None:
        return "No single method meets the budget on its own."
    theirs = best["healed" if healed else "measured"]["divergence"]
    reached = _divergence(theirs)
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


def _divergence(value: float | None) -> str:
    return f"a divergence of {units.divergence(value)}"


def conditions(result: Json) -> str:
    """Under which conditions the numbers of the page were measured, in one sentence."""
    data = result.get("data") or {}
    parts = []
    if get(result, "settings", "at"):
        parts.append(f"Latency at {get(result, 'settings', 'at')}, measured in turns with the original")
    where = _machine(result.get("environment") or {})
    if where:
        parts.append(f"on {where}")
    start = " ".join(parts)
    tokens = data.get("report_tokens")
    text = f"quality on {units.count(tokens)} held-out tokens of {get(result, 'settings', 'data')}" if tokens else ""
    sentence = "; ".join(p for p in (start, text) if p)
    return f"{sentence[:1].upper()}{sentence[1:]}." if sentence else ""


def _machine(environment: Json) -> str:
    """The processor with the instruction sets that matter, its threads, and whether kernels were compiled for it."""
    device = environment.get("device") or "cpu"
    if device != "cpu" or not environment.get("cpu"):
        return "" if device == "cpu" else device
    sets = ", ".join(environment.get("instruction_sets") or [])
    threads = environment.get("threads")
    kernels = {"compiled": "compiled kernels", "reference": "no compiled kernels"}.get(environment.get("kernels") or "")
    equipped = " and ".join(p for p in [units.plural(threads, "thread") if threads else "", kernels] if p)
    name = f"{environment['cpu']} ({sets})" if sets else environment["cpu"]
    return f"{name} with {equipped}" if equipped else name


def unreachable(result: Json) -> str | None:
    """How many single methods are not drawn, because they cannot meet the budget."""
    weak = [u for u in result.get("uniform") or [] if u.get("meets_budget") is False and not u.get("measured")]
    if not weak:
        return None
    return f"{units.plural(len(weak), 'uniform model')} cannot meet the budget; the table lists how far each gets."


def beside(result: Json) -> str | None:
    """Where the models of other tools come from, and which of them could not be drawn."""
    given = result.get("beside")
    if not given:
        return None
    where, data = _machine(given.get("environment") or {}), given.get("data")
    measured = " ".join(
        part for part in (f"on {where}" if where else "", f"on the text {data}" if data else "") if part
    )
    sentence = f"Stars are models of other tools, measured in a run of their own{f' {measured}' if measured else ''}"
    absent = [
        f"{one['name']} ({one['reason']})" if one["reason"] else one["name"] for one in given.get("left_out") or []
    ]
    return f"{sentence}; not drawn for want of figures: {', '.join(absent)}." if absent else f"{sentence}."


def aim(result: Json) -> str | None:
    """Why a mix searched for one budget is predicted at another share: the search was told to aim beside it."""
    told, asked = get(result, "solver", "effective_budget") or {}, get(result, "settings", "budget") or {}
    moved = {n: share for n, share in told.items() if share is not None and asked.get(n) not in (None, share)}
    if not moved:
        return None
    listed = ", ".join(f"{n} {units.apart(share, asked[n])[0]}×" for n, share in moved.items())
    return (
        f"“Searched for” names the budget that a mix was made for, not what it is predicted to cost. Sublayers timed "
        f"alone do not add up to the time of a whole model, so the search aims beside the budget, as far as the clock "
        f"shows that it must: here a predicted {listed}, in order to measure "
        f"{', '.join(f'{n} {units.bound(asked[n])}' for n in moved)}. The other mixes were corrected in the same way."
    )


def healed(result: Json) -> str | None:
    """How long healing went on, and whether it ended early."""
    heal = result.get("heal") or {}
    steps = units.plural(heal["steps"], "step") if heal.get("steps") is not None else ""
    tokens = f"{units.count(heal['tokens'])} tokens" if heal.get("tokens") is not None else ""
    start = ", ".join(p for p in [steps, tokens] if p)
    end = "It stopped early, when the held-out curve no longer fell." if heal.get("stopped_early") else ""
    return " ".join(p for p in [f"{start}." if start else "", end] if p) or None


def banners(result: Json, not_finite: list[str]) -> Markup:
    """What must not be overlooked: a budget that was missed, a heal that was undone, a reload that differs."""
    return join(
        macros("sections.html").banner(title, words)
        for title, words in [_budget(result), _heal(result), _reload(result), _broken(not_finite)]
        if words
    )


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
        reached = ", ".join(_reached(result, n, v) for n, v in reachable.items() if isinstance(v, (int, float)))
    else:
        reached = _reached(result, main_cost(result), reachable) if reachable is not None else ""
    words = f"Measured: {'; '.join(over)}. " if over else ""
    words += f"The best that the offered methods reach on this model and machine: {reached}. " if reached else ""
    return "The budget was not met.", words + "Everything below describes the closest model."


def _reached(result: Json, name: str, share: float) -> str:
    title = COSTS[name].title if name in COSTS else name
    return f"{title} {units.against(share, bound_of(result, name))}"


def _heal(result: Json) -> tuple[str, str]:
    if not (get(result, "chosen", "rolled_back") or get(result, "heal", "rolled_back")):
        return "", ""
    return "Healing was rolled back.", "It did not lower the held-out divergence, so the unhealed model was kept."


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
