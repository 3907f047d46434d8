"""The model card of a result: what was measured, on which machine, what changed and how to load it, as Markdown.

It is the README.md beside the saved weights, so that the figures travel with the model. Like the page it reads
`result.json` and measures nothing.
"""

from __future__ import annotations

import re
from collections import Counter

from layersmith.report import units
from layersmith.report.reading import COSTS, Json, get, label, missed, ratio, what_agrees

#: Methods whose linear maps hold codes instead of weights.
CODED = ("rtn", "gptq", "int8_dynamic", "smooth_int8", "bf16")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+", re.ASCII)


def card(result: Json) -> str:
    """The card as Markdown with the header that the Hub reads."""
    name, at = get(result, "model", "name") or "a model", get(result, "settings", "at")
    parts = [
        _header(result),
        f"# {_plain(name)}, refitted",
        f"A {get(result, 'model', 'architecture')} that layersmith has refitted"
        f" under the budget {_budget(result)}. All figures are of one run, at {at}.",
        _table(result),
        _conditions(result),
        "## What changed",
        _changes(result),
        "## Loading it",
        _loading(result),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(result: Json) -> str:
    name = str(get(result, "model", "name") or "")
    base = [f"base_model: {name}"] if _HUB_ID.fullmatch(name) else []
    return "\n".join(["---", "library_name: transformers", "tags:", "- layersmith", *base, "---"])


def _budget(result: Json) -> str:
    wanted = ", ".join(f"{name} {units.bound(share)}" for name, share in get(result, "settings", "budget").items())
    if get(result, "chosen", "meets_budget"):
        return f"{wanted}, which was met as measured end to end"
    reached = ", ".join(f"{name} {units.against(*pair, digits=3)}" for name, pair in missed(result).items())
    return f"{wanted}, which was **missed** in the last measurement ({reached})"


def _table(result: Json) -> str:
    original, refitted = result.get("baseline") or {}, get(result, "chosen", "measured") or {}
    rows = ["| | original | refitted | ratio |", "| --- | ---: | ---: | ---: |"]
    for name, cost in COSTS.items():
        before, after = original.get(cost.field), refitted.get(cost.field)
        if after is not None:
            share = units.ratio(ratio(result, refitted, name))
            rows.append(f"| {cost.title} | {cost.write(before)} | {cost.write(after)} | {share} |")
    for key, title, write in (
        ("perplexity", "perplexity", units.significant),
        ("bits_per_byte", "bits per byte", units.significant),
    ):
        if refitted.get(key) is not None:
            rows.append(f"| {title} | {write(original.get(key))} | {write(refitted[key])} | |")
    kind = get(refitted, "divergence_kind")
    distance = "KL from the original, nats" if kind in (None, "kl") else "relative squared error from the original"
    rows.append(f"| {distance} | 0 | {units.divergence(refitted.get('divergence'))} | |")
    if refitted.get("agreement") is not None:
        rows.append(f"| same {what_agrees(result)} | 100.0 % | {units.percent(refitted['agreement'])} | |")
    for name, timing in (result.get("compiled") or {}).items():
        if name == "refitted" and timing.get("latency_ratio") is not None:
            before = get(result, "compiled", "original", "latency_ms")
            share = units.ratio(timing["latency_ratio"])
            after = units.milliseconds(timing["latency_ms"])
            rows.append(f"| latency, both under torch.compile | {units.milliseconds(before)} | {after} | {share} |")
    return "\n".join(rows).replace("\u00a0", " ")


def _conditions(result: Json) -> str:
    machine = result.get("environment") or {}
    sets, threads = ", ".join(machine.get("instruction_sets") or []), machine.get("threads")
    tokens, data = get(result, "data", "report_tokens"), get(result, "settings", "data")
    seen = f" Quality on {tokens:,} held-out tokens of {_plain(str(data))}." if tokens else ""
    versions = ", ".join(
        f"{name} {machine[name]}" for name in ("layersmith", "torch", "transformers") if name in machine
    )
    return (
        f"Measured on {_plain(str(machine.get('cpu')))} ({sets or 'no instruction sets known'}), "
        f"{units.plural(threads or 1, 'thread')}, device {machine.get('device')}, kernels {machine.get('kernels')}, "
        f"{versions}, {machine.get('date')}. Times are medians, and their ratio is the median of those formed within "
        f"each round of turns, so on a busy machine it is not that of the two times. On another machine the ratio is "
        f"another one: measure it there with "
        f"`layersmith measure THIS_FOLDER --against ORIGINAL`.{seen}"
    ).replace("\u00a0", " ")


def _changes(result: Json) -> str:
    chosen = _chosen_candidates(result)
    if not chosen:
        return "Nothing: every sublayer is the original's."
    counts = Counter(label(each) for each in chosen)
    folds = [fold["name"] for fold in result.get("folds") or [] if fold.get("kept")]
    healed = get(result, "heal", "tokens")
    lines = [f"- `{method}` in {units.plural(count, 'place')}" for method, count in counts.most_common()]
    lines += [f"- folded exactly: `{name}`" for name in folds]
    if healed and not get(result, "heal", "rolled_back"):
        by = get(result, "settings", "heal_adapter")
        what = f", `{by}` in place of all weights" if by else ""
        lines.append(f"- healed by distillation from the original on {healed:,} tokens{what}")
    return "\n".join(lines).replace("\u00a0", " ")


def _loading(result: Json) -> str:
    writes = get(result, "chosen", "measured", "perplexity") is not None
    if result.get("export") == "stock":
        name, options, needs = get(result, "model", "architecture"), "", "It is an ordinary model of transformers."
    else:
        name = "AutoModelForCausalLM" if writes else "AutoModel"
        options = ", trust_remote_code=True"
        needs = (
            "It has parts of layersmith, which must be installed; `trust_remote_code=True` runs the lines in this "
            "folder that import it."
        )
    lines = [
        "```python",
        f"from transformers import {name}",
        "",
        f'model = {name}.from_pretrained("THIS_FOLDER"{options})',
    ]
    return "\n".join([needs, "", *lines, "```", "", *_adapters(result)]).rstrip()


def _adapters(result: Json) -> list[str]:
    """What PEFT's "all-linear" leaves out, and why."""
    coded = sorted({label(each) for each in _chosen_candidates(result) if label(each) in CODED})
    if not coded:
        return []
    return [
        f"PEFT's `all-linear` leaves out the maps that {', '.join(f'`{name}`' for name in coded)} made: their weights "
        f"are codes without gradients, which no adapter of PEFT knows. Adapters reach every other linear map."
    ]


def _chosen_candidates(result: Json) -> list[Json]:
    candidates = {each["id"]: each for each in result.get("candidates") or []}
    return [candidates[name] for name in get(result, "chosen", "candidates") or [] if name in candidates]


def _plain(text: str) -> str:
    """Text in which Markdown sees no markup."""
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)
