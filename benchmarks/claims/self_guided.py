"""arXiv 2406.16450: self-guided training makes structured feed-forwards train better.

Byte models of width 64 whose feed-forwards are low-rank (rank 16), with and without a dense guide that is faded out by
half of the steps and dropped at the end, so that both models have the same parameters when they are measured.

    python benchmarks/claims/self_guided.py
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from byte_race import train

from layersmith.ffn.structured import StructuredFFN
from layersmith.model.transformer import TransformerLM

STEPS, SEEDS = 250, (0, 1, 2)
FFN = {"name": "structured", "d_hidden": 256, "structure": "low_rank", "rank": 16}


def fade(model: TransformerLM, progress: float) -> None:
    for module in model.modules():
        if isinstance(module, StructuredFFN):
            module.guide(2 * progress)
            if progress == 1.0:
                module.drop_guide()


def main() -> None:
    rows = []
    for seed in SEEDS:
        rows.append({"guided": False, **train(FFN, STEPS, seed)})
        rows.append({"guided": True, **train({**FFN, "self_guided": True}, STEPS, seed, fade)})
    gains = [a["loss"] - b["loss"] for a, b in zip(rows[::2], rows[1::2], strict=True)]
    wins = sum(gain > 0 for gain in gains)
    verdict = "held" if wins == len(gains) else "partly" if statistics.mean(gains) > 0 else "did not hold"
    plain, guided = (statistics.mean(r["loss"] for r in rows[i::2]) for i in (0, 1))
    measured = (
        f"Held-out loss in nats per byte after {STEPS} steps of 1,024 bytes, low-rank feed-forwards of rank 16 in two "
        f"layers of width 64, mean of {len(SEEDS)} seeds: {plain:.3f} without the guide, {guided:.3f} with it; the "
        f"guide helped in {wins} of {len(gains)} seeds."
    )
    claim = "self-guided training improves structured feed-forwards at equal steps"
    print(
        record.save_claim("self_guided", "structured", "2406.16450", claim, verdict, measured, rows), verdict, measured
    )


if __name__ == "__main__":
    main()
