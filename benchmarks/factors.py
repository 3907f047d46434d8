"""How far are the ways to factor a trained matrix from it, when all store equally many numbers?

    python benchmarks/factors.py [MODEL] [--blocks 6]

For every weight matrix of some blocks of a model, at 0.75, 0.5 and 0.3 of its numbers: plain and whitened truncated
SVD (`low_rank`), sparse codes of a dense basis (`dense_sparse`), block-dense, and the largest weights (`magnitude`).
Indices are counted: a place among at most 256 vectors as a quarter of a number, a bit of a mask as 1/32. The error is
that of the outputs on held-out text, ||(W - W') X||^2 / ||W X||^2, so no fit looks at what it is judged on; the figure
is the mean over matrices of one kind. Writes results/factors-MODEL.csv.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from record import save_csv
from torch import Tensor

import layersmith
from layersmith.anatomy import Replay, find_sites
from layersmith.linear.block_dense import BlockDense
from layersmith.linear.low_rank import LowRank
from layersmith.linear.shared.masks import largest
from layersmith.measuring.environment import environment
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.refitting.method import weight_and_bias
from layersmith.refitting.methods.fits.dense_sparse import fitted, sizes_for
from layersmith.refitting.methods.fits.low_rank import decomposed, truncated
from layersmith.refitting.methods.replace.to_structured import fitted as structured
from layersmith.refitting.view import SublayerView
from layersmith.runs.workspace import Workspace

KEEPS = (0.75, 0.5, 0.3)
#: What a bit of a mask is in numbers of 32 bits.
BIT = 1 / 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="pocket", help="a folder, a Hub id, or pocket")
    parser.add_argument("--blocks", type=int, default=6, help="how many, spread over the depth")
    arguments = parser.parse_args()
    model, tokenizer = layersmith.load(arguments.model)
    model.eval().requires_grad_(False)
    batches = prepare(model, tokenizer, "stdlib", Sizes(calibration=16, search=2, report=2, heal=0), 0)
    anatomy = find_sites(model)
    found: dict[tuple[str, float, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder) / "run", {})
        activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
        activations.calibrate()
        blocks = anatomy.of_kind("block")
        every = max(1, len(blocks) // arguments.blocks)
        for block in blocks[::every]:
            for site in anatomy.in_block(block.name):
                if site.kind in ("ffn", "mixer"):
                    measure(activations.view(site), site.kind, found)
            activations.forget()
        workspace.close()
    rows: list[dict[str, Any]] = []
    for (kind, keep, way), errors in sorted(found.items()):
        rows.append({"kind": kind, "keep": keep, "way": way, "matrices": len(errors), "error": mean(errors)})
        print(f"{kind:<6} {keep:.2f} {way:<14} {mean(errors):.4f} of {len(errors)}", flush=True)
    print(save_csv(f"factors-{Path(arguments.model).name}", rows, environment()))


@torch.no_grad()
def measure(view: SublayerView, kind: str, found: dict[tuple[str, float, str], list[float]]) -> None:
    """The errors of every way at every matrix of a sublayer, on the moments of inputs that nothing was fitted to."""
    judge = view.after([])
    judge.fit = view.holdout
    for path, module in view.used_linears().items():
        weight = weight_and_bias(module)[0].double()
        seen, kept_aside = view.grams[path], judge.grams[path].double()
        whole = energy(weight, kept_aside)
        for keep in KEEPS:
            for way, matrix in factors(weight, seen, keep).items():
                found[kind, keep, way].append(energy(weight - matrix, kept_aside) / whole)


def energy(weight: Tensor, gram: Tensor) -> float:
    """The mean over inputs of ||W x||^2."""
    return float((weight @ gram * weight).sum())


def factors(weight: Tensor, gram: Tensor, keep: float) -> dict[str, Tensor]:
    """The matrices that each way comes to with `keep` of the numbers of `weight` (d_out, d_in)."""
    d_out, d_in = weight.shape
    numbers = keep * weight.numel()
    rank = max(1, int(numbers / (d_out + d_in)))
    up, down = truncated(decomposed(weight, gram), rank)
    made = {
        "svd": LowRank.from_weight(weight, rank).dense_weight(),
        "low_rank": up.double() @ down.double(),
        "magnitude": weight * largest(weight.abs(), max(1, int(numbers - BIT * weight.numel()))),
    }
    if (sizes := sizes_for(keep, d_out, d_in)) is not None:
        made["dense_sparse"] = fitted(weight, gram, *sizes).dense_weight()
    if d_in % 4 == 0:
        part = structured(weight, gram, {"structure": "block_dense", "blocks": 4, "keep": keep})
        assert isinstance(part, BlockDense)
        made["block_dense"] = part.dense_weight()
    return made


if __name__ == "__main__":
    main()
