"""Sparse feed-forwards, from trained layers and from scratch: what skipping channels costs and what it saves.

    python benchmarks/claims/sparse_ffns.py

arXiv 2506.06644 (Spark Transformer), arXiv 2511.09323 (Mixture-of-Channels): all eight feed-forwards keep a share of
their channels per token, chosen by statistical top-k or by top-k of the trained gate, without any further training.
Quality is perplexity and KL to the original on held-out standard-library text. From scratch, small byte models with
the sparse feed-forward are trained beside the dense one of equal width, three seeds; as good means within GOOD of the
dense one's loss. Speed is one feed-forward on one token, float32, one thread, interleaved with the dense one, in
REPEATS separate timings whose median and range are both recorded, because they differ widely on a busy machine; at
pocket's widths and, with random weights, at SmolLM2's and a larger one's.
"""

from __future__ import annotations

import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from byte_race import train
from pocket_ffns import Pocket
from record import save_claim

from layersmith.ffn.glu import GLU
from layersmith.ffn.spark_ffn import SparkFFN
from layersmith.ffn.topk_glu import TopKGLU
from layersmith.measuring.latency import latency, ratio
from layersmith.refitting import methods

KEEPS = (0.5, 0.2, 0.08)
WIDTHS = ((192, 512), (576, 1536), (2048, 8192))
REPEATS = 5
NAMES = {"topk": "2511.09323", "spark_ffn": "2506.06644"}
STEPS, SEEDS, WIDTH, GOOD = 250, (0, 1, 2), 171, 1.01


def main() -> None:
    torch.set_num_threads(1)
    pocket = Pocket(report=16)
    original = pocket.quality([])[1]
    speeds = {widths: speed(*widths) for widths in WIDTHS}
    dense = loss({"name": "glu", "d_hidden": WIDTH})
    for name, paper in NAMES.items():
        rows: list[dict[str, Any]] = []
        for keep in KEEPS:
            settings = {"keep": keep} | ({"split": False} if name == "spark_ffn" else {})
            kl, perplexity = pocket.quality([methods.get(name).build(pocket.view(s), settings) for s in pocket.sites])
            row: dict[str, Any] = {"keep": keep, "kl": kl, "perplexity": perplexity, "perplexity_of_original": original}
            for (d_model, d_hidden), measured in speeds.items():
                row[f"flops_{d_model}x{d_hidden}"] = measured[name, keep][0]
                taken = measured[name, keep][1]
                row[f"decode_latency_{d_model}x{d_hidden}"] = statistics.median(taken)
                row[f"decode_latency_{d_model}x{d_hidden}_range"] = [taken[0], taken[-1]]
            part = {"topk": "topk_glu", "spark_ffn": "spark_ffn"}[name]
            row["loss"] = loss({"name": part, "d_hidden": WIDTH, "k": round(keep * WIDTH)})
            row["loss_of_dense"] = dense
            rows.append(row)
            print(row, flush=True)
        save(name, paper, rows, original)


def loss(ffn: dict[str, Any]) -> float:
    """Held-out nats per byte of a small model trained from scratch with this feed-forward, mean of the seeds."""
    return statistics.mean(train(ffn, STEPS, seed)["loss"] for seed in SEEDS)


def speed(d_model: int, d_hidden: int) -> dict[tuple[str, float], tuple[float, list[float]]]:
    """(method, keep) -> FLOPs and, for each repeat, latency of one token, as shares of the dense GLU's."""
    torch.manual_seed(0)
    glu, x = GLU(d_model, d_hidden), torch.randn(1, 1, d_model)
    parts: dict[tuple[str, float], Any] = {}
    for keep in KEEPS:
        k = round(keep * d_hidden)
        parts["topk", keep], parts["spark_ffn", keep] = TopKGLU.from_glu(glu, k), SparkFFN.from_glu(glu, k)
    steps = {"dense": partial(glu, x)} | {str(key): partial(part, x) for key, part in parts.items()}
    ratios: dict[tuple[str, float], list[float]] = {key: [] for key in parts}
    for seed in range(REPEATS):
        timings = latency(steps, rounds=12, warmup=3, min_seconds=0.002, seed=seed)
        for key in parts:
            ratios[key].append(ratio(timings, str(key), "dense"))
    dense = glu.cost().flops
    return {key: (part.cost().flops / dense, sorted(ratios[key])) for key, part in parts.items()}


def save(name: str, paper: str, rows: list[dict[str, Any]], original: float) -> None:
    usable = [row for row in rows if row["loss"] <= GOOD * row["loss_of_dense"]]
    faster = [row for row in rows if row["decode_latency_2048x8192_range"][1] < 1]
    figures = "; ".join(
        f"{row['keep']:.0%} of the channels: perplexity {row['perplexity']:.1f} (KL {row['kl']:.2f}), from "
        f"scratch {row['loss']:.3f} nats per byte, FLOPs {row['flops_2048x8192']:.2f}x, decode "
        + ", ".join(timed(row, widths) for widths in WIDTHS)
        for row in rows
    )
    claims = {
        "topk": (
            "topk_glu",
            "Choosing channels per token by the gate reduces the work of decoding with competitive quality",
        ),
        "spark_ffn": (
            "spark_ffn",
            "With 8% of the channels active, fewer FLOPs (2.5x over the whole model) and faster decoding (up to 1.79x "
            "on CPU) at equal quality",
        ),
    }
    part, claim = claims[name]
    both = [row for row in usable if row in faster]
    verdict = "held" if both and name == "topk" else "partly" if faster else "did not hold"
    measured = (
        f"Without further training, on all 8 feed-forwards of pocket (dense: perplexity {original:.1f}), and "
        f"from scratch in two-layer byte models of width 64 after {STEPS} steps (dense {rows[0]['loss_of_dense']:.3f}, "
        f"mean of {len(SEEDS)} seeds): {figures}. "
        f"Latency is of one feed-forward on one token, "
        f"one CPU thread, median and range of {REPEATS} repeats. The papers' models are far larger."
    )
    print(save_claim(f"{name}_pocket", part, paper, claim, verdict, measured, rows), verdict)


def timed(row: dict[str, Any], widths: tuple[int, int]) -> str:
    key = f"decode_latency_{widths[0]}x{widths[1]}"
    low, high = row[f"{key}_range"]
    return f"{row[key]:.2f}x ({low:.2f} to {high:.2f}) at {widths[0]}x{widths[1]}"


if __name__ == "__main__":
    main()
