"""Does the map of a model say beforehand what it costs to put a matrix in a sublayer's place?

    python benchmarks/explain_predicts.py [MODEL] [--tokens 8192] [--out FOLDER]

The map (`explain` without a tool) holds of every feed-forward and mixer how linear it is (R² of the best matrix on its
own inputs and outputs) and how fragile (divergence with its mean output in its place). Each of them is then replaced by
that matrix, alone, and the divergence of the predictions is measured on held-out text, as a refit measures its floors:
in nats where a model answers with tokens or classes, else as the relative squared error of its embeddings or last
hidden states. Printed and written to benchmarks/explain/predicts-MODEL.json: both for every sublayer, and Spearman's
rank correlation of the measured divergence with 1 - R², with fragility, and with their product, with intervals that
cover 95 % of resampled sets of sublayers.

Both runs go on where they were stopped: give the same command again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import record
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import layersmith
from layersmith import catalogue
from layersmith.explaining.block import entering, look
from layersmith.explaining.floors import ridge
from layersmith.explaining.fragile import replaced
from layersmith.explaining.survey import Subject, Survey
from layersmith.explaining.tool import Settings
from layersmith.measuring.divergence import KL, RELATIVE_SQUARED_ERROR, first_run, is_distribution

FOUND = Path(__file__).resolve().parent / "explain"
RESAMPLES = 2000
#: What is known of a sublayer beforehand -> what is expected of its replacement, to rank by.
PREDICTORS: dict[str, Callable[[dict[str, Any]], float]] = {
    "1 - linearity": lambda site: 1 - site["linearity"],
    "fragility": lambda site: site["fragility"],
    "fragility x (1 - linearity)": lambda site: site["fragility"] * (1 - site["linearity"]),
}


class Matrices(Survey):
    """The best affine map in the place of each feed-forward and mixer, one at a time.

    A tool of `explain` would run the model once more for every site and floor; here the blocks are run once to fit,
    and only those from a site's own on to judge, as for the map's fragility.
    """

    name, summary = "matrices", "What it costs to put the best matrix in each sublayer's place."
    settings: ClassVar[Settings] = {}

    def survey(self, subject: Subject, settings: Settings) -> dict[str, Any]:
        parts = {name: affine(weight, bias) for name, (weight, bias) in fitted(subject).items()}
        kind = KL if is_distribution(first_run(subject.model, subject.judge[0])) else RELATIVE_SQUARED_ERROR
        return {"measure": kind, "sites": replaced(subject, parts, "matrix", "replacing by a matrix"), "sections": []}


def fitted(subject: Subject) -> dict[str, tuple[Tensor, Tensor]]:
    """Site -> weight and bias of its best affine map; the blocks one after another, finished ones read back."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    into = None
    for index, path in enumerate(subject.replay.blocks):
        block = next(site for site in subject.anatomy.of_kind("block") if site.modules[0] == path)
        inside = [s for s in subject.anatomy.in_block(block.name) if s.kind in ("ffn", "mixer") and not s.locked]
        kept = subject.workspace.load_tensors(f"matrices/{index:04d}")
        if kept is None:
            seen = look(subject, index, inside, entering(subject, index) if into is None else into)
            kept, into = {}, seen.leaving
            for name, rows in seen.rows.items():
                weight, bias = ridge(rows["inputs"].double(), rows["outputs"].double())
                kept |= {f"{name}/weight": weight.float(), f"{name}/bias": bias.float()}
            subject.workspace.save_tensors(f"matrices/{index:04d}", kept)
        else:
            into = None  # what leaves this block is not kept
        for site in inside:
            found[site.name] = kept[f"{site.name}/weight"], kept[f"{site.name}/bias"]
        subject.tell("fitting matrices", index + 1, subject.replay.n_blocks)
    return found


def affine(weight: Tensor, bias: Tensor) -> nn.Module:
    module: Any = catalogue.build({"name": "affine", "d_model": len(bias)})
    with torch.no_grad():
        module.linear.weight.copy_(weight)
        module.linear.bias.copy_(bias)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=Path("out/predicts"))
    arguments = parser.parse_args()
    name = record.named(arguments.model)
    options: dict[str, Any] = {"tokens": arguments.tokens}
    drawn = layersmith.explain(arguments.model, out=arguments.out / name / "map", **options)
    judged = layersmith.explain(
        arguments.model, tool=f"{__name__}:Matrices", out=arguments.out / name / "matrices", **options
    )
    sites = beside(drawn["survey"]["sites"], judged["survey"]["sites"])
    ranks = {predictor: correlation(sites, value) for predictor, value in PREDICTORS.items()}
    for site in sites:
        print(*(f"{value:.4g}" if isinstance(value, float) else f"{value:16}" for value in site.values()))
    print(json.dumps(ranks, indent=1))
    # The model as files name it: where it lay is of no use to a reader.
    found = {"model": {**judged["model"], "name": name}, "measure": judged["survey"]["measure"]}
    found |= {"settings": judged["settings"], "environment": judged["environment"]}
    FOUND.mkdir(exist_ok=True)
    text = json.dumps({**found, "ranks": ranks, "sites": sites}, indent=1, ensure_ascii=False)
    (FOUND / f"predicts-{name}.json").write_text(text + "\n", encoding="utf-8")


def beside(known: dict[str, dict[str, Any]], measured: dict[str, float]) -> list[dict[str, Any]]:
    """What the map says of each sublayer, and what its matrix costs; those the map says less of are left out."""
    keys, found = ("linearity", "fragility"), []
    for name, divergence in measured.items():
        before = {key: known[name].get(key) for key in keys}
        if None in before.values():
            print(f"{name} is left out: the map knows no {' and '.join(k for k in keys if before[k] is None)} of it")
            continue
        found.append({"site": name, **before, "divergence": divergence})
    return found


def correlation(sites: list[dict[str, Any]], predicted: Callable[[dict[str, Any]], float]) -> dict[str, float]:
    """Spearman's rank correlation with the measured divergence, and where 95 % of resampled ones lie."""
    pairs = np.array([[predicted(site), site["divergence"]] for site in sites])
    draws = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    resampled = [spearmanr(*pairs[rows].T).statistic for rows in draws]
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return {"spearman": float(spearmanr(*pairs.T).statistic), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
