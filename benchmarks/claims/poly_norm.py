"""arXiv 2411.03884: polynomial activations reach a lower loss than the usual ones at equal parameters and steps.

Byte models of width 64 that differ in their feed-forwards alone: ReLU, squared ReLU, GELU and SwiGLU beside PolyReLU
and PolyNorm. SwiGLU is two thirds as wide, so that all have nearly the same parameters.

    python benchmarks/claims/poly_norm.py
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from byte_race import train

STEPS, SEEDS = 250, (0, 1, 2)
FFNS = {
    "relu": {"name": "mlp", "d_hidden": 256, "act": "relu", "bias": False},
    "relu2": {"name": "mlp", "d_hidden": 256, "act": "relu2", "bias": False},
    "gelu": {"name": "mlp", "d_hidden": 256, "act": "gelu", "bias": False},
    "swiglu": {"name": "glu", "d_hidden": 171, "act": "silu"},
    "poly_relu": {"name": "poly_relu", "d_hidden": 256},
    "poly_norm": {"name": "poly_norm", "d_hidden": 256},
}
OURS, USUAL = ("poly_relu", "poly_norm"), ("relu", "relu2", "gelu", "swiglu")


def main() -> None:
    rows = [{"ffn": name, **train(ffn, STEPS, seed)} for seed in SEEDS for name, ffn in FFNS.items()]
    loss = {name: statistics.mean(r["loss"] for r in rows if r["ffn"] == name) for name in FFNS}
    best = min(loss[name] for name in USUAL)
    below = [name for name in OURS if loss[name] < best]
    gap = max(abs(loss[name] - best) for name in OURS)
    if gap < max(spread(rows, name) for name in FFNS):
        verdict = "not seen at this size"  # one more seed could turn it round
    else:
        verdict = "held" if len(below) == len(OURS) else "partly" if below else "did not hold"
    measured = (
        f"Held-out loss in nats per byte after {STEPS} steps of 1,024 bytes, two layers of width 64, one learning rate "
        f"for all, mean of {len(SEEDS)} seeds: {', '.join(f'{name} {loss[name]:.3f}' for name in FFNS)}. Seeds of one "
        f"feed-forward differ by up to {max(spread(rows, name) for name in FFNS):.3f}."
    )
    claim = "polynomial activations reach a lower loss than ReLU, GELU and SwiGLU at equal parameters and steps"
    print(record.save_claim("poly_norm", "poly_norm", "2411.03884", claim, verdict, measured, rows), verdict, measured)


def spread(rows: list[dict[str, Any]], name: str) -> float:
    """How far runs of one feed-forward lie apart that differ in their seed alone."""
    losses = [row["loss"] for row in rows if row["ffn"] == name]
    return max(losses) - min(losses)


if __name__ == "__main__":
    main()
