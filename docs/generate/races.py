"""Comparisons of papers, run again: a section for each race that was published, and those that were not run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from generate.dots import dots
from generate.text import chips, inline, paper_link, table

ROOT = Path(__file__).resolve().parents[2]
RACES, PUBLISHED = ROOT / "races", ROOT / "benchmarks" / "races"
VERDICTS = {"held": "yes", "not distinguishable": "partly", "did not hold": "no", "too few seeds": "missing"}
WAYS = {"beats": "better than", "matches": "as good as", "reaches": "as good as the yardstick"}
EQUAL = {
    "params": "parameters",
    "flops": "FLOPs of training",
    "state_bytes": "bytes of state",
    "seconds": "seconds of training",
}
#: Claims that no race can say yet: paper -> what it would compare, and what is missing for it.
NOT_EXPRESSIBLE = {
    "2506.21103": (
        "skipping the middle layers against fewer layers",
        "a spec has no layers that a token may skip",
    ),
    "2501.18838": (
        "latents rewritten in words against leaving the sublayer out",
        "it changes a trained model and is no race; `benchmarks/claims/partial_rewrite.py` asks it of rules",
    ),
}


#: What the figures of a race do not say by themselves.
NOTES = {
    "dyt_small": "By the paper's rule the learned factor on the embeddings starts at the root of the width, here 6, "
    "and DyT hardly gets below the unigram's score. At 64, as at the paper's widths, embeddings enter with a deviation "
    "of about 1, and its mean is RMSNorm's. With that factor RMSNorm's own mean is the best of all.",
    "muon_facts": "Subjects are trained on as Zipf's law has it. With all of them as frequent both knew every fact "
    "after 1000 steps, and nothing could be told apart.",
    "first_log_length": "Both are at the ceiling, as they were at strings up to ten times as long after 800 steps: "
    "under a causal mask the bits before the first change stand out by themselves, and no logarithm is needed. The "
    "paper's model sees all positions at once.",
    "in_context_ridge": "After 1000 steps it was undecided, 5.2 % above the oracle; it was sized again to 2000.",
    "looped_regression": "Undecided after 800 steps, it was sized again to 2000. One looped model comes as far as the "
    "plain one, the others stay behind on the way. The loss is that of the last turn; the paper's is the mean over the "
    "last turns, whose number grows while it trains. One layer that is run through four times has a quarter of the "
    "layers' parameters.",
    "galerkin_burgers": "Undecided after 400 steps, it was sized again to 1200. The paper's grids have 512 to 8192 "
    "points, where time that is linear in them counts; here it is 64.",
    "generation_damping": "Guidance takes drawings away from real digits here, and damping takes back three quarters "
    "of that: nearest of all are drawings without guidance.",
    "generation_prior": "Both are guided by 2; the model was trained without classes, and tuned with them for 300 "
    "steps.",
    "generation_affiner": "Nothing is told of classes. Distances are to the digits 5 to 9, which training did not see; "
    "Affiners and everything are tuned for 300 steps. Affiners of rank 2 are 7,237 numbers beside 60,148 weights.",
    "generation_refresh": "Of the work of all layers and steps extrapolated and reused take 0.48, seven plain steps "
    "0.44. Extrapolated is 12 % behind all of the work, where the claim allows 5, and nearer than fewer steps are.",
    "generation_predictor": "Predicting takes 0.31 of the work of all layers and steps, and so do five plain steps; "
    "what the predictors cost is not in that.",
    "inverted_series": "The built-in series share their periods and nothing else: one says little about another, which "
    "is what attention between them could use. The inverted model takes an eighth of the FLOPs.",
}


def page() -> str:
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(PUBLISHED.glob("*.json"))}
    written = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(RACES.glob("*.yaml"))}
    counts = Counter(result["expected"]["word"] for result in found.values())
    out = [
        "# Races",
        "Comparisons of papers, trained again from scratch at the size of a minute or a few on one thread, each tuned "
        "alike, with at least three seeds. A claim held where the intervals of all differences it is about lie on its "
        "side, and did not hold where one lies on the other; what was not seen at this size may well hold at the "
        "paper's. `layersmith race races/NAME.yaml` runs one again, `benchmarks/races.py` renews this page.",
        " ".join(f"{chips([(VERDICTS[word], word)])} {counts[word]}" for word in VERDICTS if counts[word]),
    ]
    rows = [[f"[{name}](#{name})", _verdict(r["expected"]["word"]), inline(r["claim"])] for name, r in found.items()]
    out += [table(["race", "outcome", "claim"], rows)] if rows else ["No race has been published yet."]
    for name, result in found.items():
        out += [f"## {name}", *_section(name, result)]
    missing = [[f"`races/{name}.yaml`", inline(race["claim"])] for name, race in written.items() if name not in found]
    if missing:
        out += ["## Written, not run", table(["file", "claim"], missing)]
    cells = [[paper_link(key), inline(what), inline(why)] for key, (what, why) in NOT_EXPRESSIBLE.items()]
    out += ["## Not run", table(["paper", "comparison", "what is missing"], cells)]
    return "\n\n".join(out) + "\n"


def _section(name: str, result: dict[str, Any]) -> list[str]:
    expected, task = result["expected"], result["task"]
    way = next(each for each in WAYS if each in expected)
    said = f"{expected['entrant']} {WAYS[way]} {', '.join(each['rival'] for each in expected['against'])}"
    if expected.get("within"):
        said += f", within {100 * expected['within']:g} %"
    if expected.get("split") == "longer":
        said += ", on longer examples"
    papers = " ".join(paper_link(key) for key in result["papers"])
    out = [f"{inline(result['claim'])} {papers}", f"{_verdict(expected['word'])} {inline(said)}: {_against(expected)}."]
    out += [_chart(result), table(*_leaderboard(result), right=range(1, 8)), inline(_conditions(result, task))]
    return [*out, inline(NOTES[name])] if name in NOTES else out


def _chart(result: dict[str, Any]) -> str:
    """Of the scores that the claim is about."""
    longer = result["expected"].get("split") == "longer"
    scores = {
        row["name"]: [s for s in row["scores_on_longer" if longer else "scores"] if s is not None]
        for row in result["entrants"]
    }
    return dots(scores, result["yardsticks"], result["task"]["metric"] + " on longer" * longer)


def _verdict(word: str) -> str:
    return chips([(VERDICTS[word], word)])


def _against(expected: dict[str, Any]) -> str:
    told = []
    for each in expected["against"]:
        low, high = each["interval"] or (None, None)
        interval = "" if low is None else f", interval {low:.4f} to {high:.4f}"
        told.append(inline(f"{each['rival']} by {each['difference']:.4f}{interval}"))
    return "; ".join(told)


def _leaderboard(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    longer = any(row["longer"] is not None for row in result["entrants"])
    head = ["entrant", inline(result["task"]["metric"]), "of the seeds", "parameters", "GFLOP", "state", "rate"]
    rows = []
    for row in result["entrants"]:
        scores = [score for score in row["scores"] if score is not None]
        spread = f"{min(scores):.4f} to {max(scores):.4f}" if scores else "–"
        if row["diverged"]:
            spread += f", {row['diverged']} diverged"
        costs = [f"{row['params']:,}", f"{row['flops'] / 1e9:,.0f}", f"{row['state_bytes']:,}"]
        rate = f"{row['lr']:g}{' (edge)' if row['on_edge'] else ''}"
        cells = [inline(row["name"]), f"{row['mean']:.4f}", spread, *costs, rate]
        rows.append([*cells, f"{row['longer']:.4f}"] if longer and row["longer"] is not None else cells)
    rows += [
        [inline(name), f"{score:.4f}", "yardstick", *[""] * (len(head) - 3), *[""] * longer]
        for name, score in result["yardsticks"].items()
    ]
    return (head + ["on longer"] * longer, rows)


def _conditions(result: dict[str, Any], task: dict[str, Any]) -> str:
    budget, settings, where = result["budget"], result["settings"], result["environment"]
    given = ", ".join(f"{name}={value}" for name, value in task["settings"].items())
    better = "higher" if task["higher_is_better"] else "lower"
    return (
        f"Task {task['name']}{f' ({given})' if given else ''}, {better} is better; equal: {budget['amount']:,.0f} "
        f"{EQUAL[budget['quantity']]} within {100 * budget['tolerance']:g} %; {settings['layers']} layers unless said "
        f"otherwise, {settings['steps']} steps of {settings['batch']} examples, {len(settings['seeds'])} seeds. "
        f"{where['cpu']}, one thread, torch {where['torch']}, {where['date'][:10]}, commit {str(where['commit'])[:8]}."
    )
