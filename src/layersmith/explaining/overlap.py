"""Whether a model does two things in one way: how much of two circuits is the same, and whether they stand in for
each other.

Two sets of prompt pairs, such as one task in two languages. Edges are scored on each (`circuit.py`); the circuits
compared are those of the N largest scores, N the smaller of the usual sizes at which both are as faithful as asked for:

    overlap   |A and B| / |A or B| of their edges,   beside that of as many edges drawn at random
    crossed   how faithful A is on B's prompts, and B on A's, beside each on its own and random ones

    layersmith explain MODEL --with overlap --set prompts=english.jsonl,against=german.jsonl

Paper: "The Same But Different: Structural Similarities and Differences in Multilingual Language Modeling" (one circuit
for one process in two languages, parts of its own for what only one language has; confirmed in its abstract). Differs
from the paper: edges are scored by attribution, where it patches paths and follows the flow of information; any two
sets of prompts, for its Chinese ones are not here.
"""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy.stream import NoSum
from layersmith.errors import UserError
from layersmith.explaining.circuit import ABLATIONS, Search
from layersmith.explaining.circuits import curves, patching
from layersmith.explaining.circuits.graph import Graph
from layersmith.explaining.circuits.prompts import Encoder, Prompts, read
from layersmith.explaining.circuits.tasks import check, draw
from layersmith.explaining.sections import Section, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.runs.identity import batches_digest

#: Pairs of a task drawn for each one that is kept, and edges that are listed.
DRAWN, LISTED = 40, 40
SIDES = ("first", "second")


class Overlap(Survey):
    name = "overlap"
    summary = "How much of the circuits of two sets of prompts is the same, and whether they stand in for each other."
    papers = ("same-but-different",)
    settings: ClassVar[Settings] = {
        "task": "induction",
        "other": "names",
        "prompts": "",
        "against": "",
        "pairs": 16,
        "ablation": "resample",
        "steps": 5,
        "random": 5,
        "faithful": 0.85,
    }

    def check(self, settings: Settings) -> None:
        if bool(settings["prompts"]) != bool(settings["against"]):
            raise UserError("Two sets of prompts are compared: give both prompts=FILE and against=FILE, or neither.")
        if settings["ablation"] not in ABLATIONS:
            raise UserError(f"The ablation is one of {', '.join(ABLATIONS)}, not {settings['ablation']!r}.")
        for name, least in (("pairs", 2), ("steps", 1), ("random", 1)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")
        if not 0 < settings["faithful"] <= 1:
            raise UserError("faithful is a share above 0, at most 1.")
        for name in ("task", "other"):
            check(settings[name])
        for name in ("prompts", "against"):
            if settings[name]:
                read(settings[name])

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        encoder = Encoder(subject.model, subject.tokenizer, subject.device)
        return compare(subject, [_prompts(encoder, settings, side) for side in SIDES], settings)


def _prompts(encoder: Encoder, settings: Settings, side: str) -> list[Prompts]:
    file = settings["prompts" if side == "first" else "against"]
    if file:
        return encoder.batches(read(file))
    task = settings["task" if side == "first" else "other"]
    return encoder.longest_group(itertools.islice(draw(task, 0), DRAWN * settings["pairs"]), settings["pairs"])


def compare(subject: Subject, prompts: list[list[Prompts]], settings: Settings) -> dict[str, Any]:
    """Both circuits, what they share and how faithful each is on either side, as JSON with its sections."""
    sides = [_search(subject, each, settings) for each in prompts]
    scores = [side.ranked() for side in sides]
    edges = sides[0].graph.edges
    ends = [curves.odds(side.graph, side.cases, torch.stack([edges, torch.zeros_like(edges)])) for side in sides]
    size = max(
        _enough(side, ranked, end, settings["faithful"]) for side, ranked, end in zip(sides, scores, ends, strict=True)
    )
    circuits = [curves.best(ranked, edges, size) for ranked in scores]
    draws = torch.Generator().manual_seed(size)
    random = [curves.chance(edges, size, draws) for _ in range(2 * settings["random"])]
    pairs = zip(random[::2], random[1::2], strict=True)
    found: dict[str, Any] = {
        "edges": int(edges.sum()),
        "size": size,
        "overlap": overlap(*circuits),
        "random_overlap": sum(overlap(a, b) for a, b in pairs) / settings["random"],
        "crossed": _crossed(sides, ends, circuits, random[::2]),
        "shared": _named(sides[0].graph, circuits[0] & circuits[1]),
        "alone": [_named(sides[0].graph, own & ~other) for own, other in (circuits, circuits[::-1])],
    }
    return {**found, "sections": _sections(found)}


def overlap(a: Tensor, b: Tensor) -> float:
    """|a and b| / |a or b| of two sets of edges (W, R) bool; 1 for two that are empty."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def _search(subject: Subject, prompts: list[Prompts], settings: Settings) -> Search:
    ids = [{**each.clean, "corrupt": each.corrupt["input_ids"], "right": each.right} for each in prompts]
    try:
        graph = Graph(subject.model, subject.anatomy, subject.replay, prompts[0])
    except NoSum as why:
        raise UserError(f"Circuits are compared edge by edge, and this model has no such graph: {why}.") from why
    cases = [graph.case(each, settings["ablation"]) for each in prompts]
    return Search(subject, graph, cases, settings, f"overlap/{batches_digest(ids)[:16]}")


def _enough(side: Search, ranked: Tensor, ends: list[float], faithful: float) -> int:
    """The smallest of the usual sizes at which the circuit is as faithful as asked for."""
    edges = side.graph.edges
    for size in curves.sizes(int(edges.sum())):
        (odds,) = curves.odds(side.graph, side.cases, curves.best(ranked, edges, size)[None])
        share = patching.share(odds, ends[1], ends[0])
        if share is None:
            raise UserError(
                "The model answers the two prompts of the pairs alike, so nothing says which edges matter. Take "
                "prompts, or a task, that it answers."
            )
        side.subject.tell("running circuits", size, int(edges.sum()))
        if share >= faithful:
            return size
    return int(edges.sum())


def _crossed(
    sides: list[Search], ends: list[list[float]], circuits: list[Tensor], random: list[Tensor]
) -> dict[str, dict[str, float | None]]:
    """Whose circuit -> on whose prompts -> faithfulness."""
    rows: dict[str, dict[str, float | None]] = {name: {} for name in (*SIDES, "random")}
    for name, side, end in zip(SIDES, sides, ends, strict=True):
        own, other, *drawn = curves.odds(side.graph, side.cases, torch.stack([*circuits, *random]))
        for row, odds in zip(rows, (own, other, sum(drawn) / len(drawn)), strict=True):
            rows[row][name] = patching.share(odds, end[1], end[0])
    return rows


def _named(graph: Graph, circuit: Tensor) -> list[list[str]]:
    return [[graph.writers[w], graph.readers[r]] for w, r in circuit.nonzero().tolist()]


def _sections(found: dict[str, Any]) -> list[Section]:
    told = (
        f"The {found['size']:,} edges of the largest scores on either set of prompts, out of {found['edges']:,}, have "
        f"{found['overlap']:.3g} of their edges in common; as many at random {found['random_overlap']:.3g}."
    )
    rows = [
        [name, *("–" if row[side] is None else row[side] for side in SIDES)] for name, row in found["crossed"].items()
    ]
    kinds = zip(("both", *SIDES), (found["shared"], *found["alone"]), strict=True)
    edges = [[writer, reader, kind] for kind, each in kinds for writer, reader in each[:LISTED]]
    return [
        table("Faithfulness", ["circuit", "on the first prompts", "on the second prompts"], rows, told),
        table("Edges", ["writer", "reader", "circuit"], edges, f"At most {LISTED} of each kind."),
    ]
