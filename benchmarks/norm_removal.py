"""What does a model without norms cost, and does taking them out one at a time help?

    python benchmarks/norm_removal.py [MODEL] [--steps 200] [--rows 4]

Every norm becomes one that divides by a fixed number, its average over calibration text (arXiv 2409.13710). Rows: the
original, and the same after as many steps on the same text; all norms at once, without training and with it; and one
norm after the other while it trains, those before feed-forwards first, then those before attention, the last one last,
all of them gone after three quarters of the steps. AdamW on the language-model loss, half a cosine from `--lr`. The
loss is that of held-out text in nats a token; `folded` is that after the fold `fixed_norm`, with how many norms are
left. Writes results/norm_removal-MODEL.csv.
"""

from __future__ import annotations

import argparse
import copy
import math
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import save_csv
from torch import nn

import layersmith
from layersmith.anatomy import Replay, find_sites
from layersmith.anatomy.edit import apply
from layersmith.errors import UserError
from layersmith.measuring.environment import environment
from layersmith.norm.fixed_norm import FixedNorm
from layersmith.refitting import methods
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Batch, Batches, Sizes, prepare
from layersmith.refitting.prove.folds import fixed_norm
from layersmith.runs.workspace import Workspace


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    parser.add_argument("--steps", type=int, default=200, help="of training, a batch each")
    parser.add_argument("--rows", type=int, default=4, help="windows of 256 tokens in a batch")
    parser.add_argument("--lr", type=float, default=3e-4)
    arguments = parser.parse_args()
    original, tokenizer = layersmith.load(arguments.model)
    original.eval().requires_grad_(False)
    sizes = Sizes(per_batch=arguments.rows, calibration=16, search=2, report=16, heal=arguments.steps * arguments.rows)
    batches = prepare(original, tokenizer, "stdlib", sizes, 0)
    rows: list[dict[str, Any]] = []
    for way, every in (("original", None), ("all at once", 0), ("one at a time", int(0.75 * arguments.steps))):
        model = copy.deepcopy(original) if every is None else without_norms(original, batches, every)
        for steps in (0, arguments.steps) if way != "one at a time" else (arguments.steps,):
            if steps:
                train(model, batches.heal[:steps], arguments.lr)
            row = {"way": way, "steps": steps, "lr": arguments.lr, "loss": loss_of(model, batches.report)}
            rows.append(row if every is None else row | folded(model, batches.report))
            print(rows[-1], flush=True)
    print(save_csv(f"norm_removal-{Path(arguments.model).name}", rows, environment()))


def without_norms(original: nn.Module, batches: Batches, last: int) -> nn.Module:
    """A copy with fixed norms: at once (last = 0), or one after the other up to that step."""
    model = copy.deepcopy(original)
    anatomy = find_sites(model)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "run", {})
        activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
        activations.calibrate()
        method, made = methods.get("fixed_norm"), []
        order = sorted(anatomy.of_kind("norm"), key=lambda site: (_turn(site.name), site.layer))
        for place, site in enumerate(order):
            ((edit, part),) = method.build(activations.view(site), {"sinks": False})
            steps = max(1, last * (place + 1) // len(order)) if last else 0
            settings = {name: value for name, value in part.spec().items() if name not in ("name", "steps")}
            timed = FixedNorm(**settings, steps=steps)
            timed.load_state_dict(part.state_dict(), strict=False)
            made.append((edit, timed))
            activations.forget()
        workspace.close()
    apply(model, made)
    return model


def _turn(name: str) -> int:
    return 0 if name.endswith("ffn_norm") else 1 if name.endswith("attn_norm") else 2


def train(model: nn.Module, batches: list[Batch], lr: float) -> None:
    model.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / len(batches)))
        optimizer.zero_grad(set_to_none=True)
        nats(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    model.eval().requires_grad_(False)


def nats(model: nn.Module, batch: Batch) -> torch.Tensor:
    logits = model(**batch, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.flatten(0, 1).float(), batch["input_ids"][:, 1:].flatten())


@torch.no_grad()
def loss_of(model: nn.Module, batches: list[Batch]) -> float:
    return sum(float(nats(model, batch)) for batch in batches) / len(batches)


def folded(model: nn.Module, batches: list[Batch]) -> dict[str, Any]:
    """The loss after the fold, and what is left."""
    try:
        fold = fixed_norm.fold(model, find_sites(model))
    except UserError as reason:
        return {"folded": None, "left": str(reason)}
    undo = fold.apply(model)
    try:
        return {"folded": loss_of(model, batches), "left": len(fold.notes)}
    finally:
        undo()


if __name__ == "__main__":
    main()
