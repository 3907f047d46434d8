"""What does ACDC cost on pocket, beside patching every edge one by one, and does it find better circuits than scores?

    python benchmarks/acdc.py [--tasks induction,docstring] [--pairs 8] [--threshold 0.01]

For each task, on one thread: the seconds of edge attribution, of ACDC, and of running the model once for each edge
with that edge patched, as a plain search does. The last is the median of a sample of edges, timed before and after
ACDC, times the number of edges. Beside them stands what was found: the edges that ACDC keeps, the faithfulness of its
circuit, and that of as many edges with the largest scores. Goal: ACDC in at most a fifth of the time. Writes
results/acdc.csv.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from typing import Any

import record
import torch

import layersmith
from layersmith.anatomy import Replay, find_sites
from layersmith.explaining.circuits import acdc, curves
from layersmith.explaining.circuits.attribution import scores
from layersmith.explaining.circuits.graph import Case, Graph
from layersmith.explaining.circuits.patching import share
from layersmith.explaining.circuits.prompts import Encoder
from layersmith.explaining.circuits.tasks import draw

SAMPLE, DRAWN, STEPS, AT_ONCE = 20, 40, 5, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default="induction,docstring")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--threshold", type=float, default=0.01)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = layersmith.load("pocket")
    encoder = Encoder(model, tokenizer, torch.device("cpu"))
    rows = []
    for task in arguments.tasks.split(","):
        prompts = encoder.longest_group(itertools.islice(draw(task, 0), DRAWN * arguments.pairs), arguments.pairs)
        anatomy = find_sites(model, prompts[0].clean)
        graph = Graph(model, anatomy, Replay(model, anatomy, prompts[0].clean), prompts[0])
        cases = [graph.case(each, "resample") for each in prompts]
        rows.append({"task": task, "pairs": arguments.pairs, **searched(graph, cases, arguments.threshold)})
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in rows[-1].items()})
    record.save_csv("acdc", rows)


def searched(graph: Graph, cases: list[Case], threshold: float) -> dict[str, Any]:
    """Times and findings on one graph."""
    edges = int(graph.edges.sum())
    alone = one_by_one(graph, cases)
    start = time.perf_counter()
    ranked = sum(scores(graph, case, STEPS) * len(case.prompts.where) for case in cases)
    attribution = time.perf_counter() - start
    start = time.perf_counter()
    found = pruned(graph, cases, threshold)
    seconds = time.perf_counter() - start
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


def pruned(graph: Graph, cases: list[Case], threshold: float) -> torch.Tensor:
    """The circuit of ACDC, (W, R)."""
    keep, now = graph.edges, 0.0
    at_once = max(1, min(AT_ONCE, *(graph.at_once(case) for case in cases)))
    for reader in reversed(range(len(graph.readers))):
        keep, now = acdc.prune_reader(graph, cases, keep, now, reader, threshold=threshold, at_once=at_once)
    return keep


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
