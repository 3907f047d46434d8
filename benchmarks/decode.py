"""One token after another, in float32 and in few bits: what does a whole step take, and what does it lose?

    layersmith compile && python benchmarks/decode.py [MODEL] [--rounds 30] [--at decode=1x128] [--profile VARIANT]

Variants, all timed in turns with the original in one run, KL on held-out windows of text:

    exact            `fused_attention`, `fused_glu`, `fused_norm` wherever they apply: nothing is approximated
    exact, one_row   the same, with a single token's products shared out among the threads, the head's among them
    int8_dynamic     the same sublayers, every matrix and the head in int8, activations rounded to int8
    8 bits, 4 bits   the same with `quantized` matrices in groups of 64 (of 32 where 64 does not divide), x not rounded
    int4_weight      the same in groups of 32, each on the nearer of two grids, as the method of that name does
    int4 x int8      the same with x rounded to int8, group by group
    blocks alone     the format in the blocks, the head in float32 with `one_row`

Goals: exact rewrites at most 0.60 of the original's time at KL <= 1e-6; with formats at most 0.28 at KL <= 0.005.
`bytes` are what a step reads of the weights, `bound` the share of its time that they take at the measured bandwidth.
`--profile` also prints where the time of one variant goes. Writes results/decode-MODEL.csv, or another name: a
processor of another kind has figures of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from exact_rewrites import EXACT, rewritten
from one_token import read_bandwidth
from record import save_csv
from torch import nn

import layersmith
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.anatomy.twin import twin
from layersmith.contract import Operator, stored_bytes
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.one_row import OneRow
from layersmith.linear.quantized import QuantizedLinear
from layersmith.measuring.latency import latency, model_step, ratio
from layersmith.measuring.shape import Shape, parse_shape
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.refitting.methods.quantize.int4_weight import on_nearer_grid
from layersmith.refitting.search.variants import ORIGINAL, joint_divergence, variant_steps

GOALS = {
    "exact, one_row": (0.60, 1e-6),
    "8 bits": (0.28, 0.005),
    "4 bits": (0.28, 0.005),
    "int8_dynamic": (0.28, 0.005),
    "int4 x int8": (0.28, 0.005),
}
Format = Callable[[nn.Linear], Operator]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a file, a Hub id, or pocket")
    parser.add_argument("--at", default="decode=1x128")
    parser.add_argument("--rounds", type=int, default=30, help="timings of each variant")
    parser.add_argument("--windows", type=int, default=2, help="held-out windows for the KL")
    parser.add_argument("--profile", help="a variant")
    parser.add_argument("--name", help="of the file under results; default decode-MODEL")
    arguments = parser.parse_args()

    model, tokenizer = layersmith.load(arguments.model)
    model.requires_grad_(False)
    variants, shape = made(model), parse_shape(arguments.at)
    sizes = Sizes(calibration=4, search=2, report=arguments.windows, heal=0)
    texts = prepare(model, tokenizer, "stdlib", sizes, seed=0).report
    divergences = {name: joint_divergence(model, replacement, texts) for name, replacement in variants.items()}
    bandwidth = read_bandwidth(torch.get_num_threads())
    timings = latency(variant_steps(model, variants, shape), rounds=arguments.rounds, warmup=2)
    ratios = {name: ratio(timings, name, ORIGINAL) for name in variants}
    rows = []
    for name, replacement in variants.items():
        read, found = weights_read(twin(model, replacement)), divergences[name]
        row = {"model": Path(arguments.model).stem, "at": arguments.at, "variant": name}
        row |= {"latency_ratio": ratios[name], "latency_ms": timings[name].median * 1e3}
        row |= {"original_ms": timings["original"].median * 1e3, "kl": found.value, "agreement": found.agreement}
        row |= {"bytes": read, "bound": read / bandwidth / timings[name].median, "GB/s": bandwidth / 1e9}
        row["rounds"] = arguments.rounds
        goal = GOALS.get(name)
        row["within_goal"] = None if goal is None else ratios[name] <= goal[0] and found.value <= goal[1]
        rows.append(row)
        told = f"{row['latency_ms']:.2f} of {row['original_ms']:.2f} ms, KL {found.value:.1e}"
        print(f"{name:<28} {ratios[name]:.3f}x: {told}, {read / 1e6:.0f} MB = {row['bound']:.2f} of the time")
    print(save_csv(arguments.name or f"decode-{Path(arguments.model).stem}", rows))
    if arguments.profile:
        profile(twin(model, variants[arguments.profile]), shape)


def made(model: nn.Module) -> dict[str, Replacement]:
    """The variants of the list above."""
    formats: dict[str, Format] = {
        "int8_dynamic": lambda linear: Int8Dynamic.from_weight(linear.weight, linear.bias),
        "8 bits": lambda linear: packed(linear, 8),
        "4 bits": lambda linear: packed(linear, 4),
        "int4_weight": lambda linear: on_nearer_grid(linear.weight, 32, linear.bias),
        "int4 x int8": lambda linear: on_nearer_grid(linear.weight, 32, linear.bias, 8),
    }
    variants = {"exact": rewritten(model, EXACT, one_row=False)}
    variants["exact, one_row"] = rewritten(model, EXACT, one_row=True) + with_head(model, shared)
    for name, form in formats.items():
        blocks = rewritten(model, EXACT, one_row=True)
        for _, module in blocks:
            in_format(module, form)
        variants[f"{name}, blocks alone"] = blocks + with_head(model, shared)
        variants[name] = blocks + with_head(model, form)
    return variants


def in_format(module: nn.Module, form: Format) -> None:
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, form(child))


def with_head(model: Any, form: Format) -> Replacement:
    part = form(model.get_output_embeddings())
    return [(Edit("lm_head", part.spec(), {}), part.eval().requires_grad_(False))]


def shared(linear: nn.Linear) -> OneRow:
    """The very matrix of the map, which may be the embedding's."""
    part = OneRow(linear.in_features, linear.out_features, bias=False)
    part.weight = linear.weight
    return part


def packed(linear: nn.Linear, bits: int) -> QuantizedLinear:
    group = next(g for g in (64, 32, 16) if linear.in_features % g == 0)
    return QuantizedLinear.from_weight(linear.weight, bits, group, linear.bias)


def weights_read(model: Any) -> int:
    """Bytes of everything but the embedding, of which a step reads one row."""
    table = model.get_input_embeddings().weight
    tied = any(
        p is table for m in model.modules() if m is not model.get_input_embeddings() for p in m.parameters(False)
    )
    return stored_bytes(model) - (0 if tied else table.numel() * table.element_size())


@torch.no_grad()
def profile(model: nn.Module, shape: Shape) -> None:
    """Prints the operations of a step by their own time, then Python's functions."""
    import cProfile
    import pstats

    step = model_step(model, shape)
    for _ in range(20):
        step()
    with torch.profiler.profile() as found:
        for _ in range(20):
            step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
    calls = cProfile.Profile()
    calls.enable()
    for _ in range(20):
        step()
    calls.disable()
    pstats.Stats(calls).sort_stats("tottime").print_stats(35)


if __name__ == "__main__":
    main()
