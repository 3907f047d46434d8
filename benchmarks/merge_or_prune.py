"""Is it better to merge hidden neurons, and to fuse blocks, than to leave them out?

    python benchmarks/merge_or_prune.py [MODEL] [--blocks 4]

At some blocks of a model. Neurons, at 0.875, 0.75 and 0.5 of them: merged by optimal transport (`dotresize`), merged at
random into the same targets, those targets as they are, and those refitted (`width`); the figure is the relative
squared error of the feed-forward on held-out text, without any distillation. Blocks: the block behind each left out,
and fused into it (`fusegpt`); the figure is the divergence of the whole model. Means over the blocks, in
results/merge_or_prune-MODEL.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from record import save_csv
from torch import Tensor

import layersmith
from layersmith import catalogue
from layersmith.anatomy import Replay, find_sites, replacement_for
from layersmith.anatomy.edit import Replacement, apply, restore
from layersmith.measuring.divergence import Divergence, Expected, real_positions, run
from layersmith.measuring.environment import environment
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.refitting.methods.prune.dotresize import merged
from layersmith.refitting.methods.prune.width import hidden_gram, sliced, strongest
from layersmith.refitting.view import SublayerView
from layersmith.runs.workspace import Workspace

KEEPS = (0.875, 0.75, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    parser.add_argument("--blocks", type=int, default=4, help="how many, spread over the depth")
    arguments = parser.parse_args()
    model, tokenizer = layersmith.load(arguments.model)
    model.eval().requires_grad_(False)
    batches = prepare(model, tokenizer, "stdlib", Sizes(calibration=16, search=2, report=4, heal=0), 0)
    anatomy, found = find_sites(model), defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "run", {})
        activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
        activations.calibrate()
        blocks = anatomy.of_kind("block")[:-2]  # two have to follow the one that is fused into
        for block in blocks[:: max(1, len(blocks) // arguments.blocks)]:
            for site in anatomy.in_block(block.name):
                if site.kind == "ffn":
                    for (keep, way), replacement in neurons(activations.view(site)):
                        found["neurons", keep, way].append(activations.view(site).local_error(replacement))
            for way, replacement in pairs(activations.view(block)):
                found["blocks", None, way].append(moved(model, replacement, batches.report))
            activations.forget()
        workspace.close()
    rows: list[dict[str, Any]] = []
    for (kind, keep, way), figures in found.items():
        figure = "divergence" if kind == "blocks" else "relative_squared_error"
        row = {"of": kind, "keep": keep, "way": way, "places": len(figures)}
        rows.append(row | {"figure": figure, "mean": mean(figures)})
        print(f"{kind:<8} {keep or '':<6} {way:<20} {mean(figures):.4f} of {len(figures)}", flush=True)
    print(save_csv(f"merge_or_prune-{Path(arguments.model).name}", rows, environment()))


def neurons(view: SublayerView) -> Iterator[tuple[tuple[float, str], Replacement]]:
    """(share that stays, way) and what stands in the feed-forward's place."""
    dense, gram = view.ffn.operator, hidden_gram(view)
    score = gram.diagonal().sqrt() * dense.down.weight.norm(dim=0)
    for keep in KEEPS:
        targets = strongest(score, keep)
        yield (keep, "merged"), methods.get("dotresize").build(view, {"keep": keep})
        yield (keep, "merged at random"), view.as_replacement(merged(dense, targets, at_random(len(score), targets)))
        yield (keep, "left out"), view.as_replacement(sliced(dense, targets))
        yield (keep, "left out, refitted"), methods.get("width").build(view, {"keep": keep})


def at_random(n: int, targets: Tensor) -> Tensor:
    """A plan (n, k) that brings each neuron that is no target to one drawn at random, columns of equal mass."""
    generator = torch.Generator().manual_seed(0)
    goes = torch.randint(len(targets), (n,), generator=generator)
    goes[targets] = torch.arange(len(targets))
    plan = torch.zeros(n, len(targets), dtype=torch.float64)
    plan[torch.arange(n), goes] = 1.0
    return plan / plan.sum(0) / len(targets)


def pairs(view: SublayerView) -> Iterator[tuple[str, Replacement]]:
    """The way, and what changes at the block and at the one behind it."""
    blocks = view.anatomy.of_kind("block")
    behind = blocks[[site.name for site in blocks].index(view.site.name) + 1]
    zero = catalogue.build({"name": "zero", "d_model": behind.d_model})
    yield "left out", replacement_for(view.model, behind, zero)
    method = methods.get("fusegpt")
    yield "fused", method.build(view, method.options(view)[0])


@torch.no_grad()
def moved(model: Any, replacement: Replacement, batches: list[dict[str, Tensor]]) -> float:
    """Divergence of the model with the replacement from the model."""
    distance = Divergence()
    for batch in batches:
        expected = Expected(run(model, batch), real_positions(batch))
        before = apply(model, replacement)
        try:
            distance.add_to(expected, run(model, batch))
        finally:
            restore(model, before)
    return distance.value


if __name__ == "__main__":
    main()
