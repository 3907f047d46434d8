"""P180: Post-LN's last gradients do not shrink with depth, Pre-LN's do as 1/sqrt(L), and Pre-LN needs no warm-up."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim
from small_lm import heldout, model, text, train

from layersmith.scheme.norm_place import NormPlace
from layersmith.scheme.shared.flow import flow, plain_model

DEPTHS, SEEDS = (4, 8, 16, 32), (0, 1, 2)
LAYERS, WIDTH, STEPS, LR = 12, 48, 120, 1e-3


def gradient(place: str, depth: int, seed: int) -> float:
    torch.manual_seed(seed)
    lm = plain_model(depth, {}, d_model=64, vocab=256)
    NormPlace(place).apply(lm)
    return flow(lm, torch.randint(256, (8, 32))).last_ffn


def loss(place: str, warmup: int, seed: int) -> float:
    torch.manual_seed(seed)
    lm = model({"name": "layer_norm"}, LAYERS, WIDTH, place)
    NormPlace(place).apply(lm)
    train(lm, TRAIN, STEPS, LR, warmup, seed, batch=4)
    return heldout(lm, HELDOUT)


torch.set_num_threads(1)
TRAIN, HELDOUT = text("train"), text("heldout")
rows, slopes, losses = [], {}, {}
for place in ("pre", "post"):
    logs = []
    for depth in DEPTHS:
        found = [gradient(place, depth, seed) for seed in SEEDS]
        logs.append(statistics.mean(np.log(found)))
        rows += [{"place": place, "layers": depth, "seed": s, "last_ffn_gradient": g} for s, g in enumerate(found)]
    slopes[place] = float(np.polyfit(np.log(DEPTHS), logs, 1)[0])
    for warmup in (0, 40):
        found = [loss(place, warmup, seed) for seed in SEEDS[:2]]
        losses[place, warmup] = statistics.mean(found)
        rows += [{"place": place, "warmup": warmup, "seed": s, "loss": v} for s, v in enumerate(found)]
by_depth = -0.65 < slopes["pre"] < -0.35 and abs(slopes["post"]) < 0.2
lags = losses["post", 0] > 1.02 * losses["pre", 0]
save_claim(
    "norm_place",
    "norm_place",
    "P180",
    "The last layer's gradient is flat in depth with Post-LN, falls as 1/sqrt(L) with Pre-LN, which needs no warm-up",
    "held" if by_depth and lags else "partly" if by_depth or lags else "did not hold",
    f"Norm of the last feed-forward's gradient ~ L^s at Xavier start, L = 4 to 32, width 64, 3 seeds: s = "
    f"{slopes['post']:+.2f} with Post-LN, {slopes['pre']:+.2f} with Pre-LN. Held-out loss after {STEPS} steps at "
    f"{LR:g}, {LAYERS} layers of width {WIDTH}, 2 seeds: without warm-up Post-LN {losses['post', 0]:.3f}, Pre-LN "
    f"{losses['pre', 0]:.3f}; with 40 steps of it {losses['post', 40]:.3f} and {losses['pre', 40]:.3f}.",
    rows,
)
print(slopes, losses)
