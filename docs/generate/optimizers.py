"""How a race may train: a section for each optimizer."""

from __future__ import annotations

import inspect
from typing import Any

from generate.text import arguments, blocks, inline, paper_link
from layersmith import records
from layersmith.racing.optimizers import OPTIMIZERS, rule_class


def page() -> str:
    out = [
        "# Optimizers",
        "What `race` trains with. They are entrants like parts: `layersmith race --optimizer adamw,muon` tunes each "
        "on a grid of learning rates of its own, with the same schedule, clipping and examples.",
    ]
    for name in OPTIMIZERS:
        out += [f"## {name}", *_section(name)]
    return "\n\n".join(out) + "\n"


def _section(name: str) -> list[str]:
    rule: Any = rule_class(name)
    idea, _, rest = records.optimizer_text(name).partition("\n\n")
    facts = [f"rates tried: {', '.join(f'{lr:g}' for lr in rule.lrs)}"]
    facts.append("one gradient a step" if rule.gradients == 1 else f"{rule.gradients} gradients a step")
    if rule.papers:
        facts.append("papers " + " ".join(paper_link(key) for key in rule.papers))
    out = [f"**{inline(idea)}**", " · ".join(facts), blocks(rest)]
    if inspect.signature(rule).parameters:
        out.append(arguments(inspect.getdoc(rule) or ""))
    return out + [f"**Partly:** without {inline(rule.missing)}."] * bool(rule.missing)
