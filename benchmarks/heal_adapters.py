"""What does healing gain in a minute, and for a trained byte: by all weights, and by each adapter?

    python benchmarks/heal_adapters.py [MODEL] [--tokens 60000] [--rates 1e-4,3e-4,1e-3]

Two mixes of the model are healed on the same text in the same order: `width` (half of the hidden units of every
feed-forward) and `rtn` (all matrices inside the blocks in 3 bits). Every way gets every learning rate, adapters 30
times that of all weights; the row is that of the rate that ends best on the text that is watched while healing, and
`before` and `after` are of text that nothing was chosen on. KL is in nats a token to the original.

`trained_bytes` are those of the numbers that healing trains, in float32: what would have to be kept beside an
unhealed mix to get the healed one back. `model_bytes` is how much larger the healed model is than the unhealed one.
`gained_per_minute` and `gained_per_mb` divide the KL gained by the time of that one healing, and by the trained
bytes. Ways run one after the other, so their times are only as comparable as the machine is quiet. Writes
results/heal_adapters-MODEL.csv.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from record import save_csv
from torch import nn

import layersmith
from layersmith.anatomy import Anatomy, Replay, find_sites
from layersmith.anatomy.edit import apply
from layersmith.contract import stored_bytes
from layersmith.errors import UserError
from layersmith.measuring.divergence import divergence
from layersmith.measuring.environment import environment
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batches, Sizes, prepare
from layersmith.refitting.heal.adapters import build_adapter
from layersmith.refitting.heal.distillation import Healing, HealSettings, heal
from layersmith.refitting.heal.formats import FORMATS
from layersmith.runs.workspace import Workspace

#: method -> its settings, and the kinds of sites where it is used
MIXES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "width": ({"keep": 0.5}, ("ffn",)),
    "rtn": ({"bits": 3}, ("ffn", "mixer")),
}
WAYS = (None, "lora:2", "lora:8", "lora:32", "adapter_bias", "lora_experts:4", "domain_adapters:8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    parser.add_argument("--tokens", type=int, default=60_000, help="to heal on")
    parser.add_argument("--rates", default="1e-4,3e-4,1e-3", help="peak learning rates of all weights, with commas")
    arguments = parser.parse_args()
    model, tokenizer = layersmith.load(arguments.model)
    model.eval().requires_grad_(False)
    sizes = Sizes(calibration=16, search=8, report=16, heal=max(1, arguments.tokens // Sizes.length))
    batches = prepare(model, tokenizer, "stdlib", sizes, 0)
    rates = [float(rate) for rate in arguments.rates.split(",")]
    rows: list[dict[str, Any]] = []
    for mix in MIXES:
        student = changed(model, mix, batches)
        for way in WAYS:
            if mix == "rtn" and way is not None and not way.startswith(("lora:", "adapter_bias")):
                continue  # parts that stay hold their feed-forward in float, which would undo the mix
            rows.append({"mix": mix, **best_of(student, model, batches, way, rates)})
            print({key: rows[-1][key] for key in ("mix", "way", "rate", "before", "after", "seconds")}, flush=True)
    print(save_csv(f"heal_adapters-{Path(arguments.model).name}", rows, environment()))


def changed(model: nn.Module, mix: str, batches: Batches) -> nn.Module:
    """A copy of the model with one method at all of its sites."""
    anatomy, student, (settings, kinds) = find_sites(model), copy.deepcopy(model), MIXES[mix]
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "run", {})
        activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
        activations.calibrate()
        for block in anatomy.of_kind("block"):
            for site in anatomy.in_block(block.name):
                if site.kind in kinds:
                    view = activations.view(site)
                    apply(student, view.as_stored(methods.get(mix).build(view, settings)))
            activations.forget()
        workspace.close()
    return student


def best_of(
    student: nn.Module, teacher: nn.Module, batches: Batches, way: str | None, rates: list[float]
) -> dict[str, Any]:
    """The row of the rate that is best on the watched text."""
    anatomy, times = find_sites(teacher), 1.0 if way is None else build_adapter(way).rate
    before = divergence(teacher, student, batches.report).value
    tried = []
    for rate in (times * rate for rate in rates):
        with suppress(UserError):  # what healing raises at a rate so large that the loss is not finite
            tried.append((rate, *healed(student, teacher, anatomy, batches, (way, rate))))
    rate, model, healing, seconds, trained = min(
        tried, key=lambda each: min(point["heldout_divergence"] for point in each[2].curve)
    )
    after, trained_bytes = divergence(teacher, model, batches.report).value, 4 * trained
    return {
        "way": way or "weights",
        "rate": rate,
        "tokens": healing.tokens,
        "seconds": seconds,
        "trained_bytes": trained_bytes,
        "model_bytes": stored_bytes(model) - stored_bytes(student),
        "before": before,
        "after": after,
        "gained_per_minute": (before - after) / seconds * 60,
        "gained_per_mb": (before - after) / trained_bytes * 1e6,
        "rolled_back": healing.rolled_back,
    }


def healed(
    student: nn.Module, teacher: nn.Module, anatomy: Anatomy, batches: Batches, how: tuple[str | None, float]
) -> tuple[nn.Module, Healing, float, int]:
    """A healed copy of the student, what happened, the seconds it took and how many numbers were trained."""
    (way, rate), model = how, copy.deepcopy(student)
    steps = len(batches.heal)
    adapter = None if way is None else build_adapter(way)
    if adapter is not None:
        adapter.place(model, 0)
    model.requires_grad_(True)
    if adapter is None:
        trained = sum(p.numel() for p in model.parameters()) + rounded(model)
    else:
        with adapter.training(model, anatomy, 0):
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    settings = HealSettings(steps, rate, check_every=max(5, steps // 6), patience=99, adapter=way)
    start = time.perf_counter()
    healing = heal(model, teacher, anatomy, batches.heal, batches.search, settings)
    return model, healing, time.perf_counter() - start, trained


def rounded(model: nn.Module) -> int:
    """Weights in number formats, each of which healing trains behind its codes."""
    return sum(m.dense_weight().numel() for m in model.modules() if type(m) in FORMATS)


if __name__ == "__main__":
    main()
