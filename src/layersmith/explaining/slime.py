"""A few written equations of a feed-forward around one token of a text, and how far from it they hold (SLIME).

The inputs nearest to the token's own, among those of the run's text, say how inputs vary there; the sublayer is run at
points drawn around it, and equations are fitted to what it gives, the farther away a point the less it counts
(`formulas/around.py`). Beside them stand, on fresh points,

    linear      LIME: the weighted linear fit in the same variables, to every output
    mean        the weighted mean output
    projected   the outputs themselves along the directions that have an equation: what perfect equations would come to
    shuffled    the control: equations fitted to the outputs in a random order

and all of it again in a neighbourhood made 2, 4 and 8 times as wide, and at the neighbours, whose outputs nothing was
fitted to and which differ from the token in more than the variables.

Papers: "SymTorch: Symbolic Distillation of Neural Networks"; the method is "SLIME: SupraLocal Interpretable Model
Agnostic Explanations" (Fong and Motani 2025), taken from SymTorch's documentation and code. There the variables are all
inputs, points vary by half the variance of the J nearest neighbours (radius 0.7) and weigh exp(-|t|^2), and the
neighbours are fitted to as well.
Differs: a sublayer has too many channels for an equation, so the variables are a few directions; points weigh
exp(-|t|^2 / k), as in LIME, because without the number k of variables next to none would count; the neighbours judge.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import takewhile
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy import Site, original
from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.running import evaluating
from layersmith.errors import UserError, suggest
from layersmith.explaining.capture import capture, forget, joined, watching
from layersmith.explaining.formulas.around import ENGINES, WIDTHS, Around, Flat, Function, drawn, fit
from layersmith.explaining.formulas.engine import require_engine
from layersmith.explaining.judge import AT_THE_FLOOR, standing_for
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.ffn.shared.expressions import nodes, written
from layersmith.measuring.divergence import run

#: Up to this error equations hold; below this one it is all rounding.
HOLDS, EXACT = 0.1, 1e-10
#: Nearer than this share of its length, an input is the token's own again.
SAME = 1e-5
#: Rows that a sublayer is run on at once; channels listed of a variable; tokens of a text; variables at most.
AT_ONCE, LISTED, WORDS, MOST = 1024, 3, 24, 16


class Slime(Survey):
    name = "slime"
    summary = "Written equations of a feed-forward around one token of a text, and how far they hold."
    papers = ("symtorch-symbolic-distillation-neural-networks",)
    settings: ClassVar[Settings] = {
        "text": "The capital of France is",
        "token": -1,
        "neighbours": 64,
        "radius": 0.7,
        "inputs": 3,
        "outputs": 6,
        "points": 1024,
        "longest": 30,
        "engine": "sparse",
        "generations": 60,
    }

    def check(self, settings: Settings) -> None:
        least = {"neighbours": 2, "inputs": 1, "outputs": 1, "points": 64, "longest": 3, "generations": 1}
        for name, bound in least.items():
            if settings[name] < bound:
                raise UserError(f"The setting {name} must be at least {bound}, not {settings[name]}.")
        if not settings["text"].strip():
            raise UserError("The text is empty: give one that holds the token, as text=...")
        if settings["inputs"] > MOST:
            raise UserError(
                f"Equations in more than {MOST} variables are no explanation: inputs is {settings['inputs']}."
            )
        if not 0 < settings["radius"] < float("inf"):
            raise UserError(f"The radius is a share of the neighbours' spread above 0, not {settings['radius']}.")
        if settings["engine"] not in ENGINES:
            raise UserError(f"There is no engine {settings['engine']!r}. {suggest(settings['engine'], list(ENGINES))}")
        if settings["engine"] == "pyoperon":
            require_engine()

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        sites = [site for site in subject.sites if site.kind == "ffn"]
        if not sites:
            raise UserError("Equations around a token are those of feed-forwards; none is among the sites asked for.")
        ids, token = _token(subject, settings)
        found: dict[str, Any] = {}
        left_out: dict[str, str] = {}
        for site in sites:
            kept = subject.workspace.load_json(f"slime/{site.name}")
            if kept is None:
                kept = _of_site(subject, site, ids, token, settings)
                subject.workspace.save_json(f"slime/{site.name}", kept)
            if "why" in kept:
                left_out[site.name] = kept["why"]
            else:
                found[site.name] = kept
        if not found:
            name, why = next(iter(left_out.items()))
            raise UserError(f"No feed-forward here has equations around this token. {name}: {why}.")
        result = {
            "tokens": [subject.tokenizer.decode([each]) for each in ids.tolist()],
            "token": token,
            "sites": found,
            "left_out": left_out,
            "verdicts": [f"{name}: {verdict(row)}" for name, row in found.items()],
        }
        return {**result, "sections": _sections(result)}


def judged(found: Around, function: Function, near: Tensor, settings: Settings) -> dict[str, Any]:
    """JSON: the equations with their figures on fresh points, and the errors of all where they are asked to hold."""
    errors: dict[str, dict[str, float]] = {}
    outputs: list[tuple[float, float]] = []
    for index, width in enumerate(WIDTHS):
        t, weights = drawn(found.place, settings["points"], width, seed=10 + index)
        y = function(found.place.back(t))
        errors[f"{width:g}"] = found.errors(t, y, weights)
        outputs = outputs or found.errors_of_outputs(t, y, weights)
    good = list(takewhile(lambda width: errors[f"{width:g}"]["equations"] <= HOLDS, WIDTHS))
    largest = [column.abs().topk(min(LISTED, len(column))).indices.tolist() for column in found.place.writes.T]
    return {
        "equations": found.equations,
        "outputs": [{"error": ours, "linear": linear} for ours, linear in outputs],
        "variables": [
            {"share": float(share), "channels": {str(i): float(column[i] / column.norm()) for i in channels}}
            for share, column, channels in zip(found.place.shares, found.place.writes.T, largest, strict=True)
        ],
        "errors": errors,
        "neighbours": found.errors(found.place.into(near), function(near), torch.ones_like(near[:, 0])),
        "holds": good[-1] if good else None,
    }


def verdict(row: dict[str, Any]) -> str:
    """What the figures say, in words."""
    errors = row["errors"]["1"]
    ours, linear, control = errors["equations"], errors["linear"], errors["shuffled"]
    figures = f"error {ours:.3g} against {linear:.3g}"
    if linear < EXACT:
        said = f"It is linear around the token ({figures})."
    elif ours >= errors["mean"]:
        said = f"The equations do NOT beat the mean output (error {ours:.3g})."
    elif ours >= linear:
        said = f"The equations do NOT beat LIME's linear fit ({figures})."
    else:
        said = f"The equations are nearer than LIME's linear fit ({figures})."
    held = f"Up to {row['holds']:g} times as far away the error stays below" if row["holds"] else "That is above"
    said += f" {held} {HOLDS:g}; at the neighbours in the text it is {row['neighbours']['equations']:.3g}."
    if control < AT_THE_FLOOR * errors["mean"]:
        said += f" The shuffled control does BETTER than a constant: error {control:.3g}."
    return said


def _token(subject: Subject, settings: Settings) -> tuple[Tensor, int]:
    """The text as ids (T,), and the place of the token in it."""
    batch = subject.fit[0]
    if subject.tokenizer is None or "input_ids" not in batch or "decoder_input_ids" in batch:
        raise UserError("A token of a text needs a model that reads one running text, and its tokenizer.")
    ids = list(subject.tokenizer(settings["text"])["input_ids"])
    words = ", ".join(repr(subject.tokenizer.decode([each])) for each in ids[:WORDS])
    longest = longest_input(subject.model)
    if longest is not None and len(ids) > longest:
        raise UserError(f"The text has {len(ids)} tokens, and the model takes {longest}. Give a shorter one.")
    if not -len(ids) <= settings["token"] < len(ids):
        raise UserError(
            f"There is no token {settings['token']} in the text. It has {len(ids)}, counted from 0, or from the end by "
            f"-1, -2, ...: {words}."
        )
    return torch.tensor(ids, device=subject.device), settings["token"] % len(ids)


def _of_site(subject: Subject, site: Site, ids: Tensor, token: int, settings: Settings) -> dict[str, Any]:
    """What is found at one site, or why nothing is."""
    batch = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    with watching(subject.model, site, batch) as calls, evaluating(subject.model):
        run(subject.model, batch)
    entering = joined(calls)["inputs"]
    if len(entering) != len(ids):
        return {"why": "it does not run once on every token of the text"}
    centre, function = entering[token].cpu().double(), _alone(subject, site)
    seen = capture(subject.model, site, subject.fit, subject.workspace, subject.tell).inputs.cpu().double()
    forget(site, subject.fit, subject.workspace)
    near, away = nearest(seen, centre, settings["neighbours"])
    if len(near) < settings["neighbours"]:
        return {"why": f"the text of the run has {len(near)} other inputs, fewer than the neighbours asked for"}
    try:
        found = fit(function, centre, near, settings)
    except Flat as error:
        return {"why": str(error)}
    subject.tell(f"equations of {site.name}", 1, 1)
    return {**judged(found, function, near, settings), "away": away}


def nearest(rows: Tensor, centre: Tensor, count: int) -> tuple[Tensor, float]:
    """The rows (N, D) nearest to centre (D,) that are not it again, and their median distance over its length."""
    apart = (rows - centre).norm(dim=1) / centre.norm()
    order = apart.argsort(stable=True)
    order = order[apart[order] > SAME][:count]
    return rows[order], float(apart[order].median())


def _alone(subject: Subject, site: Site) -> Function:
    """The sublayer as a function of rows, each a text of one token."""
    placed: Callable[[Tensor], Tensor] = standing_for(site, original(subject.model, site))

    @torch.no_grad()
    def function(x: Tensor) -> Tensor:
        rows = x.to(subject.device, torch.float32)[:, None]
        return torch.cat([placed(part)[:, 0] for part in rows.split(AT_ONCE)]).cpu().double()

    return function


def _sections(result: dict[str, Any]) -> list[Section]:
    found, columns = result["sites"], list(SHOWN.values())
    summary = [
        [name, *_shown(row["errors"]["1"]), row["neighbours"]["equations"], row["holds"] or "nowhere"]
        for name, row in found.items()
    ]
    equations = [
        [name, f"u{index}", nodes(tree), figures["error"], figures["linear"], written(tree)]
        for name, row in found.items()
        for index, (tree, figures) in enumerate(zip(row["equations"], row["outputs"], strict=True))
    ]
    variables = [
        [name, f"x{index}", each["share"], ", ".join(f"{i} ({part:+.2f})" for i, part in each["channels"].items())]
        for name, row in found.items()
        for index, each in enumerate(row["variables"])
    ]
    reach = [
        [name, where, *_shown(errors)]
        for name, row in found.items()
        for where, errors in [*row["errors"].items(), ("neighbours", row["neighbours"])]
    ]
    left_out = "".join(f" {name} is left out: {why}." for name, why in result["left_out"].items())
    shaded = [[text, float(index == result["token"])] for index, text in enumerate(result["tokens"])]
    title = f"Around the token {result['tokens'][result['token']]!r}"
    first = table(title, ["site", *columns, "neighbours", "holds"], summary, ABOUT + left_out)
    return [
        {**first, "passages": [{"label": "the token", "tokens": shaded}]},
        {"title": "What the figures say", "text": " ".join(result["verdicts"])},
        table("The equations", ["site", "output", "nodes", "error", "LIME", "equation"], equations, EQUATIONS),
        table("The variables", ["site", "variable", "share", "mostly channels"], variables, VARIABLES),
        table("How far they hold", ["site", "width", *columns], reach, REACH),
    ]


def _shown(errors: dict[str, float]) -> list[float]:
    return [errors[name] for name in SHOWN]


#: Whose errors the tables have, and what they are called there.
SHOWN = {"equations": "formula", "linear": "LIME", "projected": "perfect", "mean": "mean", "shuffled": "shuffled"}
ABOUT = (
    "Weighted squared errors over the variance, at fresh points around the token. Perfect: the outputs themselves "
    "along the directions that have an equation. Neighbours: the equations at the nearest inputs of the text, which "
    "differ in more than the variables. Holds: how many times as wide the neighbourhood may be made for an error of at "
    f"most {HOLDS:g}."
)
EQUATIONS = "u0, u1, ... are the principal directions of what leaves the site around the token, scaled to variance 1."
VARIABLES = (
    "Directions among the neighbours along which the output changes most: 0 is the token, 1 a radius away. Share: of "
    "all that the output changes by among the neighbours."
)
REACH = "Errors with the points drawn so many times as far from the token, and at its neighbours in the text."
