"""Transformers with DyT match or exceed those with a norm, and run faster. Here: small, from scratch, CPU.

DyT is tried at several starting slopes, because the authors tune alpha for language models (larger for narrower ones,
without b); the best one is compared. Embeddings start at variance 1 for all, which is what their embedding scalar does.

    python benchmarks/claims/dyt.py
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim
from small_lm import heldout, model, text, train

from layersmith import catalogue
from layersmith.measuring.latency import latency, ratio

LAYERS, WIDTH, STEPS, LR, SEEDS = 3, 64, 300, 2e-3, (0, 1, 2)
NORMS: dict[str, dict[str, Any]] = {"layer_norm": {"name": "layer_norm"}, "rms_norm": {"name": "rms_norm"}}
NORMS |= {f"dyt, alpha {alpha:g}": {"name": "dyt", "alpha": alpha, "bias": False} for alpha in (0.5, 1.0, 2.0, 4.0)}


def loss(norm: dict[str, Any], seed: int) -> float:
    torch.manual_seed(seed)
    lm = model(norm, LAYERS, WIDTH)
    train(lm, TRAIN, STEPS, LR, warmup=30, seed=seed)
    return heldout(lm, HELDOUT)


def speeds() -> dict[str, dict[str, float]]:
    """Latency against LayerNorm's, {norm: {"norm": alone at width 768, "model": the whole one}}, interleaved."""
    x, ids = torch.randn(8, 128, 768), torch.randint(256, (8, 128))
    parts = {n: catalogue.build({"name": n, "d_model": 768}).eval() for n in ("layer_norm", "rms_norm", "dyt")}
    models = {n: model({"name": n}, LAYERS, WIDTH).eval() for n in parts}
    alone = latency({n: lambda part=part: part(x) for n, part in parts.items()}, rounds=50, warmup=5)
    whole = latency({n: lambda lm=lm: lm(input_ids=ids) for n, lm in models.items()}, rounds=50, warmup=5)
    return {n: {"norm": ratio(alone, n, "layer_norm"), "model": ratio(whole, n, "layer_norm")} for n in parts}


TRAIN, HELDOUT = text("train"), text("heldout")
torch.set_num_threads(1)
speed = speeds()
losses = {n: [loss(config, seed) for seed in SEEDS] for n, config in NORMS.items()}
mean = {n: statistics.mean(v) for n, v in losses.items()}
best = min((n for n in NORMS if n.startswith("dyt")), key=lambda n: mean[n])
gap = mean[best] / mean["layer_norm"] - 1
as_good, faster = gap <= 0.005, speed["dyt"]["norm"] < 1 and speed["dyt"]["model"] < 1
told = ", ".join(f"{n} {v:.3f}" for n, v in mean.items())
timed = {n: f"{speed[n]['norm']:.2f}x alone at width 768 and {speed[n]['model']:.3f}x in the model" for n in speed}
measured = (
    f"Held-out loss in nats per byte, {LAYERS} layers of width {WIDTH}, {STEPS} steps of 1024 bytes, {len(SEEDS)} "
    f"seeds, one learning rate for all: {told} (best DyT {gap:+.1%} against LayerNorm). Time on one CPU thread against "
    f"LayerNorm: DyT, through its kernel, {timed['dyt']}; RMSNorm {timed['rms_norm']}."
)
rows = [{"norm": n, "seed": s, "loss": v} for n in NORMS for s, v in zip(SEEDS, losses[n], strict=True)]
rows += [{"norm": n, **{f"{k}_latency_ratio": v for k, v in found.items()}} for n, found in speed.items()]
claim = "DyT in place of a norm matches or exceeds the normalised model, and takes less time"
verdict = "held" if as_good and faster else "partly" if as_good or faster else "did not hold"
print(save_claim("dyt", "dyt", "2503.10622", claim, verdict, measured, rows), verdict, measured)
