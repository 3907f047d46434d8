"""Does the map of a model say beforehand what it costs to put a matrix in a sublayer's place?

    python benchmarks/explain_predicts.py [MODEL] [--tokens 8192] [--out FOLDER]

The map (`explain` without a tool) holds of every feed-forward and mixer how linear it is (R² of the best matrix on its
own inputs and outputs) and how fragile (divergence with its mean output in its place). Each of them is then replaced by
that matrix, alone, and the divergence of the predictions is measured on held-out text, as a refit measures its floors.
Printed and written to benchmarks/explain/predicts-MODEL.json: both for every sublayer, and Spearman's rank correlation
of the measured divergence with 1 - R², with fragility, and with their product, with intervals that cover 95 % of
resampled sets of sublayers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr

import layersmith
from layersmith import catalogue
from layersmith.explaining.floors import ridge
from layersmith.explaining.tool import Explanation, Observed, Settings, Tool

FOUND = Path(__file__).resolve().parent / "explain"
RESAMPLES = 2000
#: What is known of a sublayer beforehand -> what is expected of its replacement, to rank by.
PREDICTORS: dict[str, Callable[[dict[str, Any]], float]] = {
    "1 - linearity": lambda site: 1 - site["linearity"],
    "fragility": lambda site: site["fragility"],
    "fragility x (1 - linearity)": lambda site: site["fragility"] * (1 - site["linearity"]),
}


class Matrix(Tool):
    """The best affine map, which is a floor, as the explanation itself."""

    name, summary, kinds = "matrix", "One matrix, fitted to inputs and outputs.", ("ffn", "mixer")

    def explain(self, observed: Observed, settings: Settings, tell: Callable[[float], None]) -> Explanation:
        weight, bias = ridge(observed.inputs.double(), observed.outputs.double())
        module: Any = catalogue.build({"name": "affine", "d_model": len(bias)})
        with torch.no_grad():
            module.linear.weight.copy_(weight)
            module.linear.bias.copy_(bias)
        return Explanation(module, {"active": 1.0})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--out", type=Path, default=Path("out/predicts"))
    arguments = parser.parse_args()
    name = Path(arguments.model).name
    options = {"tokens": arguments.tokens}
    drawn = layersmith.explain(arguments.model, out=arguments.out / name / "map", **options)
    judged = layersmith.explain(
        arguments.model, tool=f"{__name__}:Matrix", out=arguments.out / name / "matrix", **options
    )
    known, sites = drawn["survey"]["sites"], []
    for site in judged["sites"]:
        before = {key: known[site["name"]][key] for key in ("linearity", "fragility")}
        sites.append({"site": site["name"], **before, "divergence": site["table"]["explanation"]["divergence"]})
    ranks = {predictor: correlation(sites, value) for predictor, value in PREDICTORS.items()}
    for site in sites:
        print(*(f"{value:.4g}" if isinstance(value, float) else f"{value:16}" for value in site.values()))
    print(json.dumps(ranks, indent=1))
    found = {"model": judged["model"], "settings": judged["settings"], "environment": judged["environment"]}
    FOUND.mkdir(exist_ok=True)
    text = json.dumps({**found, "ranks": ranks, "sites": sites}, indent=1, ensure_ascii=False)
    (FOUND / f"predicts-{name}.json").write_text(text + "\n", encoding="utf-8")


def correlation(sites: list[dict[str, Any]], predicted: Callable[[dict[str, Any]], float]) -> dict[str, float]:
    """Spearman's rank correlation with the measured divergence, and where 95 % of resampled ones lie."""
    pairs = np.array([[predicted(site), site["divergence"]] for site in sites])
    draws = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    resampled = [spearmanr(*pairs[rows].T).statistic for rows in draws]
    low, high = np.nanquantile(resampled, (0.025, 0.975))
    return {"spearman": float(spearmanr(*pairs.T).statistic), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
