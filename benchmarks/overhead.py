"""Does a swap itself cost time? Goal: a model swapped with identical copies runs within 2% of the original.

    python benchmarks/overhead.py [MODEL] [--rounds 200] [--at prefill=1x512 --at decode=1x128]

Four models, interleaved in one run, so that their ratios do not depend on the machine's mood:

    original   as loaded
    control    a plain deep copy: how far apart two equal models measure here
    copies     a deep copy with `layersmith.swap` putting a deep copy of every attention, feed-forward and norm in place
    operators  a deep copy with our own operator of equal outputs, adapted to the model's calls, at every attention and
               feed-forward that `anatomy.recognise` knows: what swapping costs where it is more than an assignment

The two swapped models' largest logit difference from the original is measured too; for the copies it must be zero.
Writes results/overhead-MODEL.csv.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from record import save_csv
from torch import nn

import layersmith
from layersmith.anatomy.recognise import as_attention, as_ffn
from layersmith.measuring.inputs import example_inputs
from layersmith.measuring.latency import model_latency, ratio
from layersmith.measuring.shape import parse_shape

GOAL = 1.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    parser.add_argument("--at", action="append", help="shapes to time (default: prefill=1x512 and decode=1x128)")
    parser.add_argument("--rounds", type=int, default=200, help="timings of each model at each shape")
    arguments = parser.parse_args()

    original, _ = layersmith.load(arguments.model)
    models = {name: copy.deepcopy(original) for name in ("control", "copies", "operators")}
    copies, operators = copies_of(models["copies"]), equal_operators(models["operators"])
    rows = []
    with layersmith.swap(models["copies"], copies), layersmith.swap(models["operators"], operators):
        swapped = {"control": 0, "copies": len(copies), "operators": len(operators)}
        inputs = example_inputs(original, 1, 64)
        differences = {name: largest_difference(original, model, inputs) for name, model in models.items()}
        for at in arguments.at or ["prefill=1x512", "decode=1x128"]:
            timings = model_latency({"original": original, **models}, parse_shape(at), rounds=arguments.rounds)
            for name in models:
                row = {"model": arguments.model, "variant": name, "sites_swapped": swapped[name], "at": at}
                row["latency_ratio"] = ratio(timings, name, "original")
                row["latency_ms"] = timings[name].median * 1e3
                row["original_ms"] = timings["original"].median * 1e3
                row["logits_max_abs_diff"] = differences[name]
                row["within_goal"] = row["latency_ratio"] <= GOAL
                row["rounds"] = arguments.rounds
                rows.append(row)
                print(f"{at:<16} {name:<10} {row['latency_ratio']:.4f}x  largest difference {differences[name]:.1e}")
    print(save_csv(f"overhead-{Path(arguments.model).name}", rows))


def copies_of(model: nn.Module) -> dict[str, nn.Module]:
    """A deep copy of what stands at every site that lies inside no other swapped one."""
    sites = [site for site in layersmith.sites(model).sites if site.kind != "block" and len(site.modules) == 1]
    return {site.name: copy.deepcopy(model.get_submodule(site.modules[0])) for site in sites}


def equal_operators(model: nn.Module) -> dict[str, nn.Module]:
    """Our operator with equal outputs at every site where there is one."""
    found = {}
    for site in layersmith.sites(model).sites:
        recognised = as_ffn(model, site) or as_attention(model, site)
        if recognised is not None:
            found[site.name] = recognised.operator.eval()
    return found


@torch.no_grad()
def largest_difference(original: nn.Module, model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    return (original(**inputs).logits - model(**inputs).logits).abs().max().item()


if __name__ == "__main__":
    main()
