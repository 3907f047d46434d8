"""arXiv 2601.21766: continued-fraction feed-forwards are competitive with 2/3 to 1/2 of the parameters.

Byte models of width 64: the MLP four times as wide as the stream, the continued fractions (whose model has 0.59 of its
parameters), and an MLP cut to the fractions' parameters. "Competitive" is taken as a loss at most 1% above the MLP's.

    python benchmarks/claims/cofrgenet.py
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from byte_race import train

from layersmith.ffn.cofrgenet import CoFrGeNet
from layersmith.model.transformer import TransformerLM

STEPS, SEEDS = 250, (0, 1, 2)
FFNS = {
    "mlp, 4 x width": {"name": "mlp", "d_hidden": 256, "bias": False},
    "mlp, equal parameters": {"name": "mlp", "d_hidden": 73, "bias": False},
    "cofrgenet": {"name": "cofrgenet"},
    "cofrgenet, elementwise": {"name": "cofrgenet", "elementwise": True},
}


def schedule(model: TransformerLM, progress: float) -> None:
    """The published one: deeper levels of the ladders train later."""
    for module in model.modules():
        if isinstance(module, CoFrGeNet):
            module.release(progress)


def main() -> None:
    rows = [{"ffn": name, **train(ffn, STEPS, seed, schedule)} for name, ffn in FFNS.items() for seed in SEEDS]
    loss = {n: statistics.mean(r["loss"] for r in rows if r["ffn"] == n) for n in FFNS}
    size = {r["ffn"]: r["parameters"] for r in rows}
    best = min(loss["cofrgenet"], loss["cofrgenet, elementwise"])
    if best <= 1.01 * loss["mlp, 4 x width"]:
        verdict = "held"
    else:
        verdict = "partly" if best < loss["mlp, equal parameters"] else "did not hold"
    figures = "; ".join(f"{n} {loss[n]:.3f} ({size[n]} parameters)" for n in FFNS)
    measured = (
        f"Held-out loss in nats per byte after {STEPS} steps of 1,024 bytes, two layers of width 64, mean of "
        f"{len(SEEDS)} seeds: {figures}."
    )
    claim = "2/3 to 1/2 of the parameters with competitive results"
    print(record.save_claim("cofrgenet", "cofrgenet", "2601.21766", claim, verdict, measured, rows), verdict, measured)


if __name__ == "__main__":
    main()
