"""What do exact rewrites gain on this machine, in each phase? Goal: decode at most 0.60 of the original's, KL <= 1e-6.

    python benchmarks/exact_rewrites.py [MODEL] [--rounds 60] [--at decode=1x128 --at prefill=1x512]

The default methods `fused_attention`, `fused_glu` and `fused_norm` at every site where they apply, each alone, all
together, and all together with `one_row` (a single token's products shared out among the threads). All are timed in
turns with the original in one run; KL is measured on held-out windows. Writes results/exact_rewrites-MODEL.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from record import save_csv
from torch import nn

import layersmith
from layersmith.anatomy.edit import Replacement
from layersmith.measuring.latency import latency, ratio
from layersmith.measuring.shape import parse_shape
from layersmith.refitting import methods
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.refitting.search.variants import ORIGINAL, joint_divergence, variant_steps
from layersmith.refitting.view import Call, SublayerView

EXACT = ("fused_attention", "fused_glu", "fused_norm")
SHAPES = ["decode=1x128", "prefill=1x512"]
GOAL, EQUAL = 0.60, 1e-6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a file, a Hub id, or pocket")
    parser.add_argument("--at", action="append", help=f"shapes to time (default: {', '.join(SHAPES)})")
    parser.add_argument("--rounds", type=int, default=60, help="timings of each variant in decode; a tenth in prefill")
    arguments = parser.parse_args()

    model, tokenizer = layersmith.load(arguments.model)
    model.requires_grad_(False)
    texts = prepare(model, tokenizer, "stdlib", Sizes(calibration=4, search=2, report=2, heal=0), seed=0).report
    variants = {name: rewritten(model, [name], one_row=False) for name in EXACT}
    variants["all"] = rewritten(model, EXACT, one_row=False)
    variants["all, one_row"] = rewritten(model, EXACT, one_row=True)
    divergences = {name: joint_divergence(model, replacement, texts) for name, replacement in variants.items()}
    rows = []
    for at in arguments.at or SHAPES:
        shape = parse_shape(at)
        rounds = arguments.rounds if shape.phase == "decode" else max(5, arguments.rounds // 10)
        timings = latency(variant_steps(model, variants, shape), rounds=rounds, warmup=2)
        ratios = {name: ratio(timings, name, ORIGINAL) for name in variants}
        for name, found in divergences.items():
            row = {"model": Path(arguments.model).stem, "at": at, "variant": name, "sites": len(variants[name])}
            row |= {"latency_ratio": ratios[name], "latency_ms": timings[name].median * 1e3}
            row |= {"original_ms": timings["original"].median * 1e3, "kl": found.value, "agreement": found.agreement}
            row |= {"equal": found.value <= EQUAL, "rounds": rounds}
            row["within_goal"] = ratios[name] <= GOAL if shape.phase == "decode" and name.startswith("all") else None
            rows.append(row)
            print(f"{at:<14} {name:<16} {row['latency_ratio']:.3f}x of {row['original_ms']:.2f} ms, KL {row['kl']:.1e}")
    print(save_csv(f"exact_rewrites-{Path(arguments.model).stem}", rows))


def rewritten(model: nn.Module, names: tuple[str, ...] | list[str], one_row: bool) -> Replacement:
    """The methods' replacements at every site where they apply."""
    anatomy = layersmith.sites(model)
    replacement: Replacement = []
    for site in anatomy.sites:
        nothing = torch.zeros(1, 1, site.d_model)
        view = SublayerView(model, anatomy, site, [Call((), {}, nothing, nothing, None)], [])
        for name in names:
            method = methods.get(name)
            if site.kind in method.kinds and not site.locked and method.unsupported_reason(view) is None:
                settings: dict[str, Any] = {} if name == "fused_norm" else {"one_row": one_row}
                replacement += view.as_stored(method.build(view, settings))
    return replacement


if __name__ == "__main__":
    main()
