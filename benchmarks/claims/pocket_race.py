"""Feed-forwards trained from scratch in models of pocket's size on a GPU: which claims about quality hold there?

    python benchmarks/claims/pocket_race.py [--steps 1000] [--processes 4] [--device cuda]

Everything but the feed-forward is pocket's: 8 layers of width 192, 6 query heads on 2 of keys and values, RoPE,
RMSNorm, a tied embedding of 4,096 tokens, the text of Python's standard library. SwiGLU is 512 wide; ungated
feed-forwards are 768 wide, so that their parameters are equal; the sparse and the masked ones are as wide as SwiGLU,
which their papers compare them with. Each kind gets the best of three learning rates, chosen on seed 0, and is then
trained with three seeds on the same batches. The loss is on held-out windows, on which only that rate was chosen.
All runs are in results/pocket_race.csv; the claims are written when all three seeds are in.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import record

from layersmith import checkpoint
from layersmith.data import text
from layersmith.measuring.environment import environment
from layersmith.model.config import TransformerConfig
from layersmith.model.transformer import TransformerLM

WIDTH, LAYERS, VOCABULARY, LENGTH, BATCH = 192, 8, 4096, 256, 32
RATES, SEEDS, WARMUP, HELDOUT = (1.5e-3, 4e-3, 1e-2), (0, 1, 2), 100, 512
#: As good: at most this many times the rival's loss.
GOOD = 1.01
FFNS: dict[str, dict[str, Any]] = {
    "swiglu": {"name": "glu", "d_hidden": 512, "act": "silu"},
    "gelu": {"name": "mlp", "d_hidden": 768, "act": "gelu", "bias": False},
    "relu": {"name": "mlp", "d_hidden": 768, "act": "relu", "bias": False},
    "relu2": {"name": "mlp", "d_hidden": 768, "act": "relu2", "bias": False},
    "poly_relu": {"name": "poly_relu", "d_hidden": 768},
    "poly_norm": {"name": "poly_norm", "d_hidden": 768},
    "gr_kan": {"name": "gr_kan", "d_hidden": 768, "bias": False},
    "mglu": {"name": "mglu", "d_hidden": 512, "n_masks": 1},
    "topk_glu": {"name": "topk_glu", "d_hidden": 512, "k": 102},
    "spark_ffn": {"name": "spark_ffn", "d_hidden": 512, "k": 41},
}
#: Part -> paper, claim, rivals, and how many times the best rival's loss still counts.
CLAIMS: dict[str, tuple[str, str, tuple[str, ...], float]] = {
    "poly_relu": (
        "2411.03884",
        "PolyReLU reaches a lower loss than ReLU, squared ReLU, GELU and SwiGLU at equal parameters and steps",
        ("relu", "relu2", "gelu", "swiglu"),
        1.0,
    ),
    "poly_norm": (
        "2411.03884",
        "PolyNorm reaches a lower loss than ReLU, squared ReLU, GELU and SwiGLU at equal parameters and steps",
        ("relu", "relu2", "gelu", "swiglu"),
        1.0,
    ),
    "gr_kan": (
        "2409.10594",
        "a transformer with GR-KAN feed-forwards is better than one with GELU MLPs at equal size",
        ("gelu",),
        1.0,
    ),
    "mglu": ("2506.23225", "a masked GLU is as good as a SwiGLU of equal width, or better", ("swiglu",), 1.0),
    "topk_glu": ("2511.09323", "a fifth of the channels, chosen by the gate, are as good as all", ("swiglu",), GOOD),
    "spark_ffn": (
        "2506.06644",
        "8% of the channels, chosen by statistical top-k, are as good as all",
        ("swiglu",),
        GOOD,
    ),
}


def tokens(split: str) -> Tensor:
    """The split's documents, each after an end-of-text token, as one row of ids."""
    _, tokenizer = checkpoint.load("pocket")
    assert tokenizer is not None
    encoded = tokenizer(text.read("stdlib", split), verbose=False)["input_ids"]
    return torch.tensor([id for document in encoded for id in (tokenizer.eos_token_id, *document)])


def train(kind: str, rate: float, seed: int, steps: int, device: str, data: Tensor, heldout: Tensor) -> dict[str, Any]:
    """Train one model and return its held-out loss in nats per token, with the run's conditions."""
    torch.manual_seed(seed)
    norm = {"name": "rms_norm"}
    mixer = {"name": "softmax_attention", "n_heads": 6, "n_kv_heads": 2, "rope_theta": 1e4}
    layer = {"norm": norm, "mixer": mixer, "ffn_norm": norm, "ffn": FFNS[kind]}
    config = TransformerConfig(vocab_size=VOCABULARY, d_model=WIDTH, layers=LAYERS * [layer], final_norm=norm)
    model = TransformerLM(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=steps, pct_start=WARMUP / steps, cycle_momentum=False
    )
    draw = torch.Generator().manual_seed(seed)
    start = time.monotonic()
    for _ in range(steps):
        first = torch.randint(len(data) - LENGTH - 1, (BATCH, 1), generator=draw)
        loss_of(model, data[first + torch.arange(LENGTH + 1)].to(device)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    with torch.no_grad():
        losses = [loss_of(model.eval(), rows.to(device)) for rows in heldout.split(BATCH)]
    return {
        "ffn": kind,
        "lr": rate,
        "seed": seed,
        "steps": steps,
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss": torch.stack(losses).mean().item(),
        "seconds": round(time.monotonic() - start, 1),
    }


def loss_of(model: TransformerLM, rows: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, torch.bfloat16):
        logits = model(input_ids=rows[:, :-1]).logits
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def trained(jobs: list[tuple[str, float, int]], steps: int, device: str, processes: int) -> list[dict[str, Any]]:
    data, heldout = tokens("train"), tokens("heldout")
    heldout = heldout[: HELDOUT * (LENGTH + 1)].view(HELDOUT, LENGTH + 1)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(train, *job, steps, device, data, heldout) for job in jobs]
        for run in runs:
            print(run.result(), flush=True)
    return [run.result() | {"tokens_of_text": len(data)} for run in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--processes", type=int, default=4, help="models trained at the same time on the device")
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args()
    settings = arguments.steps, arguments.device, arguments.processes
    tried = trained([(kind, rate, SEEDS[0]) for kind in FFNS for rate in RATES], *settings)
    record.save_csv("pocket_race", tried, environment(arguments.device))
    best = {kind: min((r for r in tried if r["ffn"] == kind), key=lambda r: r["loss"]) for kind in FFNS}
    more = trained([(kind, best[kind]["lr"], seed) for seed in SEEDS[1:] for kind in FFNS], *settings)
    record.save_csv("pocket_race", [*tried, *more], environment(arguments.device))
    losses = {kind: [r["loss"] for r in (best[kind], *more) if r["ffn"] == kind] for kind in FFNS}
    loss = {kind: statistics.mean(values) for kind, values in losses.items()}
    print({kind: [round(v, 4) for v in values] for kind, values in losses.items()})
    for part, (paper, claim, rivals, factor) in CLAIMS.items():
        beaten = [rival for rival in rivals if loss[part] <= factor * loss[rival]]
        verdict = "held" if len(beaten) == len(rivals) else "partly" if beaten else "did not hold"
        measured = (
            f"Trained from scratch at pocket's size, {best[part]['parameters']:,} parameters "
            f"({rivals[-1]}: {best[rivals[-1]]['parameters']:,}), on {arguments.steps * BATCH * LENGTH:,} tokens of "
            f"standard-library text: held-out loss in nats per token, mean of {len(SEEDS)} seeds (lowest to highest), "
            + ", ".join(
                f"{kind} {loss[kind]:.4f} ({min(losses[kind]):.4f} to {max(losses[kind]):.4f})"
                for kind in (part, *rivals)
            )
            + f"; the best of the learning rates {', '.join(f'{rate:g}' for rate in RATES)} for each."
        )
        rows = [r for r in (*tried, *more) if r["ffn"] in (part, *rivals)]
        name = f"pocket_race_{part}"
        print(record.save_claim(name, part, paper, claim, verdict, measured, rows, arguments.device), verdict)


if __name__ == "__main__":
    main()
