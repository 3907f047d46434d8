"""Which experts of a mixture go with a behaviour, and what happens to it when they are forced on or off.

Two texts show the behaviour and its opposite. Over the tokens of each, p_e is the share that chose expert e:

    RD_e = p_e(towards) - p_e(away)                                          the risk difference of an expert

The `activate` experts of the largest positive RD (at most k in a layer) are put just above the largest log-probability
of their router, the `deactivate` ones of the most negative RD just below the smallest, at every token; no weight
changes. What it does is measured on text that was not counted: the loss on both texts, and on the text of `--data`,
beside as many experts drawn at random and forced in the same way.

    layersmith explain MODEL --with steering --set towards=calm.txt,away=angry.txt

Paper: "Steering MoE LLMs via Expert (De)Activation": RD, the number of forced experts and the overwritten
log-probabilities (maximum + 0.01, minimum - 0.01), confirmed in the released code. Its benchmarks of safety and
faithfulness are not here: the texts are the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.running import evaluating
from layersmith.data.text import read
from layersmith.data.windows import windows
from layersmith.errors import UserError
from layersmith.explaining.passages import text_loss
from layersmith.explaining.routing import counting, routers, steered
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.inputs import is_causal_lm
from layersmith.runs.identity import batches_digest

#: Tokens of a window at most, windows in a batch, and experts that are listed.
LENGTH, ROWS, LISTED = 128, 4, 40
SIDES = ("towards", "away")


class Steering(Survey):
    name = "steering"
    summary = "Which experts of a mixture go with a behaviour, and what forcing them on or off does to it."
    papers = ("steering-moe-llms-expert-de",)
    settings: ClassVar[Settings] = {
        "towards": "",
        "away": "",
        "activate": 2,
        "deactivate": 2,
        "random": 3,
        "windows": 16,
    }

    def check(self, settings: Settings) -> None:
        if not (settings["towards"] and settings["away"]) or settings["towards"] == settings["away"]:
            raise UserError(
                "Steering contrasts two texts: one that shows the behaviour and one that shows its opposite. "
                "Give both, as --set towards=FILE,away=FILE."
            )
        for name, least in (("activate", 0), ("deactivate", 0), ("random", 1), ("windows", 1)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")
        for side in SIDES:
            read(settings[side], "calibration")

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        if not is_causal_lm(subject.model):
            raise UserError(
                f"What steering does is measured on the next token, which {type(subject.model).__name__} does not "
                f"foretell. Take a mixture that is a language model."
            )
        found = routers(subject.model)
        inside = tuple(f"{module}." for site in subject.sites for module in site.modules)
        kept = [path for path in found if path.startswith(inside)]
        if not kept:
            raise UserError(f"None of the sites asked for holds a router. The routers are {', '.join(found)}.")
        with evaluating(subject.model):
            counted = {side: _batches(subject, settings, side, "calibration") for side in SIDES}
            others = {side: _batches(subject, settings, side, "heldout") for side in SIDES}
            every = [batch for texts in (counted, others) for side in SIDES for batch in texts[side]]
            work = f"steering/{batches_digest(every)[:16]}"  # another text under the same name is counted anew
            shares = {side: _shares(subject, counted[side], side, work) for side in SIDES}
            differences = {path: shares["towards"][path] - shares["away"][path] for path in kept}
            k = {path: round(float(shares["towards"][path].sum())) for path in kept}  # every token chooses k
            rules = chosen_rules(differences, k, settings["activate"], settings["deactivate"])
            rows = _measured(subject, settings["random"], rules, {**others, "data": subject.judge}, work)
        experts = _listed(shares, differences, rules)
        return {"experts": experts, "steered": rows, "sections": _sections(experts, rows, settings)}


def chosen_rules(
    differences: Mapping[str, Tensor], k: Mapping[str, int], activate: int, deactivate: int
) -> dict[str, Tensor]:
    """Router -> (E,) of 1, -1 and 0: the experts of the largest |RD| on either side, and how they are forced.

    In a layer at most k are forced on, and at least k are not forced off.
    """
    rules = {path: torch.zeros(len(rd), dtype=torch.int8) for path, rd in differences.items()}
    order = sorted(
        ((path, e, float(v)) for path, rd in differences.items() for e, v in enumerate(rd)),
        key=lambda each: -abs(each[2]),
    )
    left = {1: activate, -1: deactivate}
    for path, expert, value in order:
        sign = 1 if value > 0 else -1
        room = k[path] if sign > 0 else len(rules[path]) - k[path]
        if value != 0 and left[sign] > 0 and int((rules[path] == sign).sum()) < room:
            rules[path][expert] = sign
            left[sign] -= 1
    return rules


def random_rules(rules: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """As many experts forced on and off in each layer, drawn at random; those of the rules only where no others are."""
    draw: Any = {"generator": torch.Generator().manual_seed(seed), "device": "cpu"}
    drawn = {}
    for path, rule in rules.items():
        forced, others = rule.nonzero()[:, 0], (rule == 0).nonzero()[:, 0]
        order = torch.cat([others[torch.randperm(len(others), **draw)], forced])
        drawn[path] = torch.zeros_like(rule).scatter(0, order[: len(forced)], rule[forced])
    return drawn


def _shares(subject: Subject, batches: list[dict[str, Tensor]], side: str, work: str) -> dict[str, Tensor]:
    """Router -> (E,) share of the tokens of that text that chose each expert. Kept in the workspace."""
    name = f"{work}/{side}"
    saved = subject.workspace.load_json(name)
    if saved is None:
        with counting(subject.model) as counts:
            for index, batch in enumerate(batches):
                subject.model(**batch)
                subject.tell(f"counting {side}", index + 1, len(batches))
        saved = {path: (count[:-1] / count[-1]).tolist() for path, count in counts.items()}
        subject.workspace.save_json(name, saved)
    return {path: torch.tensor(share, dtype=torch.float64, device="cpu") for path, share in saved.items()}


def _batches(subject: Subject, settings: Settings, side: str, split: str) -> list[dict[str, Tensor]]:
    length = min(LENGTH, longest_input(subject.model) or LENGTH)
    rows = windows(read(settings[side], split), subject.tokenizer, length, settings["windows"])
    if not len(rows):
        raise UserError(f"{settings[side]!r} holds less than one window of {length} tokens. Give a longer text.")
    return [{"input_ids": part.to(subject.device)} for part in rows.split(ROWS)]


def _measured(
    subject: Subject, random: int, rules: Mapping[str, Tensor], texts: dict[str, list[dict[str, Tensor]]], work: str
) -> dict[str, dict[str, float]]:
    """How it is forced -> nats per token on both texts and on the text of the run, none of which was counted."""
    forced = {"not steered": {}, "steered": dict(rules)}
    forced |= {f"random {seed + 1}": random_rules(rules, seed) for seed in range(random)}
    rows = {}
    for index, (name, rule) in enumerate(forced.items()):
        saved = subject.workspace.load_json(f"{work}/{index:02d}")
        if saved is None:
            with steered(subject.model, rule):
                saved = {text: float(text_loss(subject.model, batches)) for text, batches in texts.items()}
            subject.workspace.save_json(f"{work}/{index:02d}", saved)
        rows[name] = {**saved, "preference": saved["away"] - saved["towards"]}
        subject.tell("measuring", index + 1, len(forced))
    return rows


def _listed(
    shares: Mapping[str, Mapping[str, Tensor]], differences: Mapping[str, Tensor], rules: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """Every expert with both shares, by |RD|."""
    listed = [
        {
            "router": path,
            "expert": e,
            **{side: float(shares[side][path][e]) for side in SIDES},
            "difference": float(rd[e]),
            "forced": {1: "on", -1: "off", 0: ""}[int(rules[path][e])],
        }
        for path, rd in differences.items()
        for e in range(len(rd))
    ]
    return sorted(listed, key=lambda each: -abs(each["difference"]))


def _sections(
    experts: list[dict[str, Any]], rows: Mapping[str, Mapping[str, float]], settings: Settings
) -> list[Section]:
    columns = ["expert", "towards", "away", "difference", "forced"]
    lines = [[f"{e['router']} {e['expert']}", *(e[column] for column in columns[1:])] for e in experts[:LISTED]]
    measured = ["towards", "away", "preference", "data"]
    return [
        table("Experts", columns, lines, "Share of the tokens of either text that chose the expert."),
        table(
            "What forcing does",
            ["experts", *measured],
            [[name, *(row[column] for column in measured)] for name, row in rows.items()],
            "Nats per token on text that was not counted; preference is the loss on "
            f"{settings['away']} less that on {settings['towards']}. Random experts are as many in each layer.",
        ),
    ]
