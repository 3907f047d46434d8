"""P155: transformers with DyT match or exceed those with a norm, and run faster. Here: small, from scratch, CPU."""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim
from small_lm import heldout, model, text, train

from layersmith import catalogue

LAYERS, WIDTH, STEPS, LR, SEEDS = 3, 64, 300, 2e-3, (0, 1, 2)
NORMS = ("layer_norm", "rms_norm", "dyt")


def loss(norm: str, seed: int) -> float:
    torch.manual_seed(seed)
    lm = model({"name": norm}, LAYERS, WIDTH)
    train(lm, TRAIN, STEPS, LR, warmup=30, seed=seed)
    return heldout(lm, HELDOUT)


@torch.no_grad()
def times(rounds: int = 30) -> dict[str, dict[str, float]]:
    """Median microseconds per token of the norm alone (width 768) and of the whole model, interleaved."""
    x, ids = torch.randn(8, 128, 768), torch.randint(256, (8, 128))
    parts = {n: catalogue.build({"name": n, "d_model": 768}).eval() for n in NORMS}
    models = {n: model({"name": n}, LAYERS, WIDTH).eval() for n in NORMS}
    runs: dict[str, dict[str, list[float]]] = {n: {"norm": [], "model": []} for n in NORMS}
    for _ in range(rounds):
        for name in NORMS:
            for what, call in (("norm", lambda n=name: parts[n](x)), ("model", lambda n=name: models[n](ids))):
                start = time.perf_counter()
                call()
                runs[name][what].append((time.perf_counter() - start) / 1024 * 1e6)
    return {n: {what: statistics.median(v) for what, v in found.items()} for n, found in runs.items()}


TRAIN, HELDOUT = text("train"), text("heldout")
torch.set_num_threads(1)
losses = {n: [loss(n, seed) for seed in SEEDS] for n in NORMS}
speed = times()
mean = {n: statistics.mean(v) for n, v in losses.items()}
gap = mean["dyt"] / mean["layer_norm"] - 1
ratio = {what: speed["dyt"][what] / speed["layer_norm"][what] for what in ("norm", "model")}
as_good, faster = gap <= 0.005, ratio["norm"] < 1 and ratio["model"] < 1
save_claim(
    "dyt",
    "dyt",
    "P155",
    "DyT in place of a norm matches or exceeds the normalised model, and takes less time",
    "held" if as_good and faster else "partly" if as_good or faster else "did not hold",
    f"Held-out loss {mean['dyt']:.3f} nats per byte with DyT, {mean['layer_norm']:.3f} with LayerNorm, "
    f"{mean['rms_norm']:.3f} with RMSNorm ({gap:+.1%} against LayerNorm), {LAYERS} layers of width {WIDTH}, {STEPS} "
    f"steps of 1024 bytes, {len(SEEDS)} seeds, one learning rate for all; time per token on one CPU thread against "
    f"LayerNorm: {ratio['norm']:.2f}x for the norm alone at width 768, {ratio['model']:.2f}x for the model.",
    [{"norm": n, "seed": s, "loss": v} for n in NORMS for s, v in zip(SEEDS, losses[n], strict=True)]
    + [{"norm": n, **{f"us_per_token_{k}": v for k, v in speed[n].items()}} for n in NORMS],
)
print(mean, gap, ratio)
