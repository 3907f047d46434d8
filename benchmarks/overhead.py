"""Does timing time anything but the model? Goal: equal copies of all sublayers measure 1.00 ± 0.01 on every path.

    python benchmarks/overhead.py [MODEL] [--rounds 200] [--at prefill=1x512 --at prefill=1x64 --at decode=1x128]

Each takes turns with the original alone, as small models do where they are clocked, so that ratios depend neither on
the machine's mood nor on what others leave in its caches. What stands for the original is a twin, as it is there. Where
a process happens to place a model moves a step of 2 ms by up to 1 %, so all of it is done for several loadings of the
model; the median counts, and both ends are shown.

    control    a plain deep copy: how far apart two equal models measure here
    search     equal copies of every attention, feed-forward and norm, put in place as the search clocks a mix
    baseline   the same, as a uniform baseline is clocked
    fold       a twin without any change, as an exact rewrite is tried
    final      the same copies in a model of its own, as the healed mix is timed at the end
    measure    the same copies put in place by `layersmith.swap`, as `layersmith measure` times a changed model
    operators  our own operator of equal outputs, adapted to the model's calls, at every attention and feed-forward that
               `anatomy.recognise` knows: what swapping costs where it is more than an assignment (no null test)

The largest difference of each one's logits from the original's is measured too; for equal copies it must be zero.
Writes results/overhead-MODEL.csv.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import torch
from record import save_csv
from torch import nn

import layersmith
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.anatomy.recognise import as_attention, as_ffn
from layersmith.anatomy.twin import copied, twin
from layersmith.measuring.inputs import example_inputs, placement
from layersmith.measuring.latency import latency, model_step, ratio
from layersmith.measuring.shape import parse_shape
from layersmith.refitting.search.choice import student

GOAL = 0.01
#: How often the model is loaded anew, and seconds that the original takes of each comparison.
LOADINGS, SECONDS = 5, 0.8
SHAPES = ["prefill=1x512", "prefill=1x64", "decode=1x128"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    parser.add_argument("--at", action="append", help=f"shapes to time (default: {', '.join(SHAPES)})")
    parser.add_argument("--rounds", type=int, default=200, help="timings of each model at each shape, at most")
    arguments = parser.parse_args()

    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    for _ in range(LOADINGS):
        for at, name, measured in measure(arguments.model, arguments.at or SHAPES, arguments.rounds):
            found.setdefault((at, name), []).append(measured)
    rows = []
    for (at, name), measured in found.items():
        ratios = sorted(each["latency_ratio"] for each in measured)
        row = {"model": arguments.model, "variant": name, "at": at}
        row |= {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        row |= {"lowest_ratio": ratios[0], "highest_ratio": ratios[-1], "loadings": LOADINGS}
        row["within_goal"] = None if name == "operators" else abs(row["latency_ratio"] - 1) <= GOAL
        rows.append(row)
        print(f"{at:<16} {name:<10} {row['latency_ratio']:.4f}x ({ratios[0]:.4f} to {ratios[-1]:.4f})")
    print(save_csv(f"overhead-{Path(arguments.model).name}", rows))


def measure(source: str, shapes: list[str], most: int) -> Iterator[tuple[str, str, dict[str, float]]]:
    """(shape, variant, figures) of one loading of the model."""
    original, _ = layersmith.load(source)
    device = placement(original)[0]
    with ExitStack() as standing:
        models = {name: make(original, standing) for name, make in PATHS.items()}
        inputs = example_inputs(original, 1, 64)
        differences = {name: largest_difference(original, model, inputs) for name, model in models.items()}
        for shape in map(parse_shape, shapes):
            once = latency({"original": model_step(original, shape)}, rounds=3, device=device)["original"].median
            rounds = max(20, min(most, round(SECONDS / once)))
            for name, model in models.items():
                steps = {"original": model_step(twin(original), shape), name: model_step(model, shape)}
                timings = latency(steps, rounds=rounds, device=device)
                yield (
                    str(shape),
                    name,
                    {
                        "latency_ratio": ratio(timings, name, "original"),
                        "latency_ms": timings[name].median * 1e3,
                        "original_ms": timings["original"].median * 1e3,
                        "logits_max_abs_diff": differences[name],
                        "rounds": rounds,
                    },
                )


def swapped(model: nn.Module, modules: dict[str, nn.Module], standing: ExitStack) -> nn.Module:
    return standing.enter_context(layersmith.swap(copy.deepcopy(model), modules))


def as_edits(model: nn.Module) -> Replacement:
    """The equal copies as a candidate's edits."""
    paths = {site.name: site.modules[0] for site in layersmith.sites(model).sites}
    return [(Edit(paths[name], {}, {}), module) for name, module in copies_of(model).items()]


#: How each path makes the model that it times.
PATHS: dict[str, Callable[[nn.Module, ExitStack], nn.Module]] = {
    "control": lambda model, standing: copy.deepcopy(model),
    "search": lambda model, standing: twin(model, as_edits(model)),
    "baseline": lambda model, standing: twin(model, as_edits(model)),
    "fold": lambda model, standing: twin(model),
    "final": lambda model, standing: student(model, as_edits(model)),
    "measure": lambda model, standing: copied(swapped(model, copies_of(model), standing)),
    "operators": lambda model, standing: copied(swapped(model, equal_operators(model), standing)),
}


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
