"""What does ACDC cost beside patching every edge one by one, and does it find better circuits than scores?

    python benchmarks/acdc.py [MODEL] [--tasks induction,docstring] [--pairs 8] [--threshold 0.01] [--out FOLDER]

For each task, on one thread: the seconds of edge attribution, of ACDC, and of running the model once for each edge
with that edge patched, as a plain search does. The last is the median of a sample of edges, timed before and after
ACDC, times the number of edges. Beside them stands what was found: the edges that ACDC keeps, the faithfulness of its
circuit, and that of as many edges with the largest scores. Goal: ACDC in at most a fifth of the time. Writes
results/acdc-MODEL.csv.

A run that was stopped goes on at the reader it was at; the seconds of ACDC are those of all its parts.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor

import layersmith
from layersmith.anatomy import Replay, find_sites
from layersmith.explaining.circuits import acdc, curves
from layersmith.explaining.circuits.attribution import scores
from layersmith.explaining.circuits.graph import Case, Graph
from layersmith.explaining.circuits.patching import share
from layersmith.explaining.circuits.prompts import Encoder, Prompts
from layersmith.explaining.circuits.tasks import draw
from layersmith.runs.identity import batches_digest, weights_digest
from layersmith.runs.workspace import Workspace

SAMPLE, DRAWN, STEPS, AT_ONCE = 20, 40, 5, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a file, a Hub id, or pocket")
    parser.add_argument("--tasks", default="induction,docstring")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--threshold", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=Path("out/acdc"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    name = record.named(arguments.model)
    model, tokenizer = layersmith.load(arguments.model)
    model.requires_grad_(False)
    encoder, weights, rows = Encoder(model, tokenizer, torch.device("cpu")), weights_digest(model), []
    for task in arguments.tasks.split(","):
        prompts = encoder.longest_group(itertools.islice(draw(task, 0), DRAWN * arguments.pairs), arguments.pairs)
        identity = {"weights": weights, "prompts": digest(prompts), "settings": {"threshold": arguments.threshold}}
        workspace = Workspace(arguments.out / name / task, identity)
        row = workspace.load_json("found/row")
        if row is None:
            row = searched(*graph_of(model, prompts), arguments.threshold, workspace)
            workspace.save_json("found/row", row)
        workspace.close()
        rows.append({"task": task, "pairs": arguments.pairs, **row})
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in rows[-1].items()})
    record.save_csv(f"acdc-{name}", rows)


def digest(prompts: list[Prompts]) -> str:
    """Of every token of the prompts, and of what counts as an answer."""
    found = [{"clean": each.clean["input_ids"], "corrupt": each.corrupt["input_ids"]} for each in prompts]
    answers = [{"right": each.right, "wrong": each.wrong} for each in prompts]
    return batches_digest([*found, *answers])


def graph_of(model: Any, prompts: list[Prompts]) -> tuple[Graph, list[Case]]:
    anatomy = find_sites(model)
    graph = Graph(model, anatomy, Replay(model, anatomy, prompts[0].clean), prompts[0])
    return graph, [graph.case(each, "resample") for each in prompts]


def searched(graph: Graph, cases: list[Case], threshold: float, workspace: Workspace) -> dict[str, Any]:
    """Times and findings on one graph."""
    edges = int(graph.edges.sum())
    alone = one_by_one(graph, cases)
    start = time.perf_counter()
    ranked: Any = sum(scores(graph, case, STEPS) * len(case.prompts.where) for case in cases)
    attribution = time.perf_counter() - start
    found, seconds = pruned(graph, cases, threshold, workspace)
    every = edges * statistics.median([*alone, *one_by_one(graph, cases)])
    by_score = curves.best(ranked, graph.edges, max(1, int(found.sum())))
    circuits = torch.stack([graph.edges, torch.zeros_like(graph.edges), found, by_score])
    whole, nothing, kept, rival = curves.odds(graph, cases, circuits)
    return {
        "edges": edges,
        "threshold": threshold,
        "attribution_s": attribution,
        "acdc_s": seconds,
        "every_edge_s": every,
        "faster": every / seconds,
        "edges_kept": int(found.sum()),
        "faithfulness": share(kept, nothing, whole),
        "faithfulness_of_scores": share(rival, nothing, whole),
    }


def pruned(graph: Graph, cases: list[Case], threshold: float, workspace: Workspace) -> tuple[Tensor, float]:
    """The circuit of ACDC, (W, R), and the seconds it took; what is known so far is kept after every reader."""
    keep, now, done, seconds = graph.edges, 0.0, 0, 0.0
    kept = workspace.load_tensors("search/acdc")
    if kept is not None:
        keep, now, done, seconds = kept["keep"], float(kept["now"]), int(kept["done"]), float(kept["seconds"])
    at_once = max(1, min(AT_ONCE, *(graph.at_once(case) for case in cases)))
    readers = list(reversed(range(len(graph.readers))))
    for number, reader in enumerate(readers[done:], done + 1):
        start = time.perf_counter()
        keep, now = acdc.prune_reader(graph, cases, keep, now, reader, threshold=threshold, at_once=at_once)
        seconds += time.perf_counter() - start
        state = {"keep": keep, "now": torch.tensor(now, dtype=torch.float64), "done": torch.tensor(number)}
        workspace.save_tensors("search/acdc", {**state, "seconds": torch.tensor(seconds, dtype=torch.float64)})
        if number % 100 == 0:
            print(f"{number} of {len(readers)} readers, {int(keep.sum())} edges left, {seconds:.0f} s", flush=True)
    return keep, seconds


def one_by_one(graph: Graph, cases: list[Case]) -> list[float]:
    """Seconds of a run of the model with one edge patched, for a sample of edges."""
    drawn = torch.randperm(int(graph.edges.sum()), generator=torch.Generator().manual_seed(0))[:SAMPLE]
    taken = []
    for writer, reader in graph.edges.nonzero()[drawn].tolist():
        circuit = graph.edges.clone()
        circuit[writer, reader] = False
        start = time.perf_counter()
        curves.odds(graph, cases, circuit[None])
        taken.append(time.perf_counter() - start)
    return taken


if __name__ == "__main__":
    main()
