"""The circuit of a task: which sites matter to it, and which edges between them are enough for it.

On pairs of prompts that differ in what decides the answer (`circuits/prompts.py`):

    patching      what each site's output alone does, on any architecture (`circuits/patching.py`)
    attribution   a score for every edge of the residual graph, from a few passes (`circuits/attribution.py`)
    acdc          edges taken away one by one while predictions stay, if asked for (`circuits/acdc.py`)
    curves        circuits of every size are run, and random ones of the same size (`circuits/curves.py`)

The circuit shown is the smallest one, by score, that is as faithful as asked for. Where the sublayers of a model do
not add to one stream (Post-LN, several stacks) there is no such graph: sites are patched, and the page says why there
is no more.

Papers: "Towards Automated Circuit Discovery for Mechanistic Interpretability"; patching of single sites and the
restored share: "Causal Tracing of Object Representations in Large Vision Language Models", whose models of pictures
are not here.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith.anatomy import Site
from layersmith.anatomy.stream import NoSum
from layersmith.errors import UserError
from layersmith.explaining.circuits import acdc, curves, patching
from layersmith.explaining.circuits.attribution import scores
from layersmith.explaining.circuits.graph import Case, Graph
from layersmith.explaining.circuits.prompts import Encoder, Prompts, read
from layersmith.explaining.circuits.tasks import check, draw
from layersmith.explaining.sections import Column, Section, heat_map, table
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.runs.identity import batches_digest

#: Edges of a circuit that are listed, and pairs of a task drawn for each one that is kept.
LISTED, DRAWN = 60, 40
ABLATIONS = ("resample", "mean", "zero")


class Circuit(Survey):
    name = "circuit"
    summary = "Which sites, heads and edges a task runs over, found on pairs of prompts and run on their own."
    papers = (
        "towards-automated-circuit-discovery-mechanistic",
        "causal-tracing-object-representations-large",
        "understanding-addition-transformers",
    )
    settings: ClassVar[Settings] = {
        "task": "induction",
        "prompts": "",
        "pairs": 16,
        "ablation": "resample",
        "steps": 5,
        "random": 5,
        "faithful": 0.85,
        "acdc": False,
        "threshold": 0.01,
    }

    def check(self, settings: Settings) -> None:
        check(settings["task"])
        if settings["ablation"] not in ABLATIONS:
            raise UserError(f"The ablation is one of {', '.join(ABLATIONS)}, not {settings['ablation']!r}.")
        for name, least in (("pairs", 2), ("steps", 1), ("random", 1)):
            if settings[name] < least:
                raise UserError(f"The setting {name} must be at least {least}, not {settings[name]}.")
        if not 0 < settings["faithful"] <= 1 or settings["threshold"] < 0:
            raise UserError("faithful is a share above 0, at most 1, and threshold is not negative (nats).")
        if settings["prompts"]:
            read(settings["prompts"])

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        encoder = Encoder(subject.model, subject.tokenizer, subject.device)
        if settings["prompts"]:
            prompts = encoder.batches(read(settings["prompts"]))
        else:
            drawn = itertools.islice(draw(settings["task"], 0), DRAWN * settings["pairs"])
            prompts = encoder.longest_group(drawn, settings["pairs"])
        return find(subject, prompts, settings)


def find(subject: Subject, prompts: list[Prompts], settings: Settings) -> dict[str, Any]:
    """All that is found on the prompts, as JSON with its sections. Finished steps are read back from the workspace."""
    work = f"circuit/{batches_digest([{**each.clean, **_corrupt(each)} for each in prompts])[:16]}"
    kept = subject.workspace.load_json(f"{work}/patching")
    if kept is None:
        sites = [site for site in subject.sites if site.kind in ("ffn", "mixer", "block")]
        kept = patching.effects(subject.model, sites, prompts, subject.tell)
        subject.workspace.save_json(f"{work}/patching", kept)
    found: dict[str, Any] = {
        "pairs": sum(len(each.where) for each in prompts),
        "log_odds": {side: kept[side]["whole"] for side in ("clean", "corrupt")},
        "patching": patching.shares(kept),
    }
    try:
        graph = Graph(subject.model, subject.anatomy, subject.replay, prompts[0])
    except NoSum as why:
        found["no_graph"] = str(why)
    else:
        cases = [graph.case(each, settings["ablation"]) for each in prompts]
        found |= Search(subject, graph, cases, settings, work).results()
    return {**found, "sections": _sections(subject.sites, found)}


def _corrupt(prompts: Prompts) -> dict[str, Tensor]:
    return {"corrupt": prompts.corrupt["input_ids"], "right": prompts.right, "wrong": prompts.wrong}


@dataclass(frozen=True)
class Search:
    """Scores, circuits and curves on one graph."""

    subject: Subject
    graph: Graph
    cases: list[Case]
    settings: Settings
    work: str

    def results(self) -> dict[str, Any]:
        edges, ranked = self.graph.edges, self.ranked()
        ends = curves.odds(self.graph, self.cases, torch.stack([edges, torch.zeros_like(edges)]))
        found: dict[str, Any] = {
            "nodes": self.graph.nodes,
            "edges": int(edges.sum()),
            "score_sum": float(ranked[0].sum()),
            "graph_odds": {"all": ends[0], "none": ends[1]},
        }
        rows = []
        for size in curves.sizes(found["edges"]):
            rows.append(self._row(f"best {size}", curves.best(ranked, edges, size), ends))
            share = rows[-1]["faithfulness"]
            if share is not None and share >= self.settings["faithful"] and "circuit" not in found:
                found["circuit"] = self._listed(curves.best(ranked, edges, size), ranked)
        if self.settings["acdc"]:
            circuit = self._acdc()
            rows.append(self._row("acdc", circuit, ends))
            found["acdc"] = self._listed(circuit, ranked)
        return {**found, "curve": rows}

    def ranked(self) -> Tensor:
        """Scores (W, R), mean over all pairs."""
        total = torch.zeros(self.graph.edges.shape)
        pairs = sum(len(case.prompts.where) for case in self.cases)
        for index, case in enumerate(self.cases):
            name = f"{self.work}/scores/{index:04d}"
            kept = self.subject.workspace.load_tensors(name)
            if kept is None:
                kept = {"scores": scores(self.graph, case, self.settings["steps"])}
                self.subject.workspace.save_tensors(name, kept)
            total += kept["scores"].cpu().float() * len(case.prompts.where) / pairs
            self.subject.tell("attributing edges", index + 1, len(self.cases))
        return total

    def _row(self, name: str, circuit: Tensor, ends: list[float]) -> dict[str, Any]:
        """What a circuit of that name scores, beside random ones."""
        file = f"{self.work}/rows/{name.replace(' ', '-')}"
        kept = self.subject.workspace.load_json(file)
        if kept is None:
            draws = torch.Generator().manual_seed(int(circuit.sum()))
            random = [
                curves.chance(self.graph.edges, int(circuit.sum()), draws) for _ in range(self.settings["random"])
            ]
            kept = curves.row(self.graph, self.cases, circuit, random)
            self.subject.workspace.save_json(file, kept)
        self.subject.tell("running circuits", int(kept["edges"]), int(self.graph.edges.sum()))
        high, low = ends
        return {
            "name": name,
            "edges": int(kept["edges"]),
            "faithfulness": patching.share(kept["with"], low, high),
            "without": patching.share(kept["without"], low, high),
            "random": patching.share(kept["random_with"], low, high),
            "random_without": patching.share(kept["random_without"], low, high),
        }

    def _acdc(self) -> Tensor:
        """The circuit (W, R); a run that was stopped goes on at the reader it was at."""
        file, threshold = f"{self.work}/acdc", self.settings["threshold"]
        kept = self.subject.workspace.load_tensors(file)
        keep, now, start = self.graph.edges, 0.0, 0
        if kept is not None:
            keep, now, start = kept["keep"], float(kept["now"]), int(kept["readers"])
        at_once = max(1, min(64, min(self.graph.at_once(case) for case in self.cases)))
        readers = list(reversed(range(len(self.graph.readers))))
        for number, reader in enumerate(readers[start:], start + 1):
            keep, now = acdc.prune_reader(
                self.graph, self.cases, keep, now, reader, threshold=threshold, at_once=at_once
            )
            done = {"keep": keep, "now": torch.tensor(now, dtype=torch.float64), "readers": torch.tensor(number)}
            self.subject.workspace.save_tensors(file, done)
            self.subject.tell("taking edges away", number, len(readers))
        return keep

    def _listed(self, circuit: Tensor, ranked: Tensor) -> list[dict[str, Any]]:
        """The edges of a circuit, the largest scores first."""
        at = circuit.nonzero().tolist()
        told = [
            {"from": self.graph.writers[w], "to": self.graph.readers[r], "score": float(ranked[w, r])} for w, r in at
        ]
        return sorted(told, key=lambda edge: -abs(edge["score"]))


def _sections(sites: list[Site], found: dict[str, Any]) -> list[Section]:
    odds = found["log_odds"]
    columns = [
        Column("clean, resampled", "share left of the clean answer with this output as on the corrupt prompt"),
        Column("clean, mean", "the same with the mean output over the corrupt prompts"),
        Column("clean, zero", "the same with no output"),
        Column("corrupt, restored", "share of the clean answer that this output alone brings to the corrupt prompt"),
    ]
    rows = [
        (site.name, [found["patching"][site.name][way] for way in patching.WAYS])
        for site in sites
        if site.name in found["patching"]
    ]
    told = (
        f"{found['pairs']} pairs of prompts; mean log-odds of the answer {odds['clean']:.3g} nats on the clean and "
        f"{odds['corrupt']:.3g} on the corrupt prompts. 1 answers like the clean prompt, 0 like the corrupt one."
    )
    if "no_graph" in found:
        told += f" No edges are shown: {found['no_graph']}."
    made = [heat_map("What each site's output does", columns, rows, told)]
    if "no_graph" in found:
        return made
    keys = ("edges", "faithfulness", "without", "random", "random_without")
    titles = ("circuit", "edges", "faithfulness", "without it", "random: faithfulness", "random: without it")
    curve = [[row["name"], *("–" if row[key] is None else row[key] for key in keys)] for row in found["curve"]]
    told = (
        f"Circuits by edge attribution, out of {found['edges']:,} edges, run on their own and taken away. All scores "
        f"of the embedding add up to {found['score_sum']:.3g}, what was to be explained to "
        f"{found['graph_odds']['none'] - found['graph_odds']['all']:.3g}."
    )
    made.append(table("Faithfulness against size", titles, curve, told))
    for name, title in (("circuit", "The circuit"), ("acdc", "The circuit of ACDC")):
        if name in found:
            edges = [[edge["from"], edge["to"], edge["score"]] for edge in found[name][:LISTED]]
            told = f"{len(found[name])} edges; the score: what the log-odds change by, in nats, without the edge."
            if len(found[name]) > LISTED:
                told += f" The {LISTED} largest are shown."
            made.append({**table(title, ("writer", "reader", "score"), edges, told), "graph": _drawn(found, edges)})
    return made


def _drawn(found: dict[str, Any], edges: list[list[Any]]) -> dict[str, Any]:
    """The graph of a section: what a head's queries, keys and values read goes to the head."""
    nodes = {node for stage in found["nodes"] for node in stage}
    joined = [[start, end if end in nodes else end.rpartition(".")[0], score] for start, end, score in edges]
    return {"stages": found["nodes"], "edges": joined}
