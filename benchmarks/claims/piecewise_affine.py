"""Products by adding bits: what they do to pocket as it is, and to a small model that is trained with them.

Paper: Kosson & Jaggi 2023, "Multiplication-Free Transformer Training via Piecewise Affine Operations", arXiv
2305.17190: networks train with them, hyperparameters unchanged, with little or no loss of quality. Here the products
of all weight matrices are replaced, the head's included; attention scores, norms, softmax and the optimizer keep
theirs.

    python benchmarks/claims/piecewise_affine.py
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
from byte_race import stream
from record import save_claim

from layersmith import checkpoint
from layersmith.data.examples import Reader
from layersmith.linear.piecewise_affine import PiecewiseAffine
from layersmith.measuring.divergence import token_kl
from layersmith.model.config import TransformerConfig
from layersmith.model.transformer import TransformerLM

TEXTS, LENGTH = 4, 128
D, BATCH, TOKENS, STEPS, SEEDS = 32, 8, 32, 200, 3


def replace(model: nn.Module) -> int:
    """Every linear map of the model, in place; how many there were."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name, module in found:
        parent, _, child = name.rpartition(".")
        part = PiecewiseAffine.from_weight(module.weight, module.bias)
        setattr(model.get_submodule(parent), child, part.requires_grad_(module.weight.requires_grad))
    return len(found)


@torch.no_grad()
def on_pocket() -> dict[str, Any]:
    model, tokenizer = checkpoint.load("pocket")
    model.float().eval().requires_grad_(False)
    reader = Reader(model, tokenizer, "stdlib", length=LENGTH)
    batches = reader.batched(reader.read("heldout", LENGTH * TEXTS), LENGTH)
    before = [model(**batch).logits for batch in batches]
    maps = replace(model)
    after = [model(**batch).logits for batch in batches]
    loss = {"loss": before, "loss_with": after}
    targets = torch.cat([batch["input_ids"][:, 1:].flatten() for batch in batches])
    found: dict[str, Any] = {"model": "pocket", "maps": maps, "tokens": len(targets)}
    for name, logits in loss.items():
        rows = torch.cat([part[:, :-1].flatten(0, 1) for part in logits])
        found[name] = float(F.cross_entropy(rows.double(), targets))
    found["kl"] = float(torch.cat([token_kl(a, b).flatten() for a, b in zip(before, after, strict=True)]).mean())
    return found


def trained(bits: bool, seed: int) -> dict[str, Any]:
    """Held-out loss of a two-layer byte model after so many steps."""
    torch.manual_seed(seed)
    layer = {
        "norm": {"name": "rms_norm"},
        "mixer": {"name": "softmax_attention", "n_heads": 2, "rope_theta": 1e4},
        "ffn_norm": {"name": "rms_norm"},
        "ffn": {"name": "glu", "d_hidden": 2 * D},
    }
    config = TransformerConfig(
        vocab_size=256, d_model=D, layers=2 * [layer], final_norm={"name": "rms_norm"}, tie_word_embeddings=False
    )
    model = TransformerLM(config).train()
    if bits:
        replace(model)
    data, draw = stream("train", 1_000_000), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 5e-3 * min(1, (step + 1) / 20) * (1 - step / STEPS)
        starts = torch.randint(len(data) - TOKENS - 1, (BATCH,), generator=draw).tolist()
        rows = torch.stack([data[s : s + TOKENS + 1] for s in starts])
        optimizer.zero_grad()
        F.cross_entropy(model(input_ids=rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    rows = stream("heldout", 128 * (TOKENS + 1)).reshape(-1, TOKENS + 1)
    with torch.no_grad():
        logits = torch.cat([model.eval()(input_ids=part[:, :-1]).logits for part in rows.split(16)])
    loss = float(F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten()))
    return {"products": "bits added" if bits else "multiplied", "seed": seed, "steps": STEPS, "loss": loss}


def main() -> None:
    rows = [on_pocket()]
    print(rows[-1], flush=True)
    for seed in range(SEEDS):
        for bits in (False, True):
            rows.append(trained(bits, seed))
            print(rows[-1], flush=True)
    losses = {
        kind: [row["loss"] for row in rows if row.get("products") == kind] for kind in ("multiplied", "bits added")
    }
    gaps = [added - exact for exact, added in zip(losses["multiplied"], losses["bits added"], strict=True)]
    spread = max(losses["multiplied"]) - min(losses["multiplied"])
    mean = statistics.mean(gaps)
    small = mean < 0.02 * statistics.mean(losses["multiplied"])
    pocket = rows[0]
    save_claim(
        "piecewise_affine",
        "piecewise_affine",
        "multiplication-free-transformer-training-piecewise",
        "Transformers train with piecewise affine products, hyperparameters unchanged, with little or no loss",
        "held" if small else "not seen at this size" if abs(mean) < spread else "did not hold",
        f"Two layers of width {D}, {STEPS} steps of {BATCH} x {TOKENS} bytes: held-out loss "
        f"{statistics.mean(losses['multiplied']):.4f} nats per byte multiplied and "
        f"{statistics.mean(losses['bits added']):.4f} with bits added (mean of {SEEDS} seeds, which differ by up to "
        f"{spread:.4f}). Put into pocket without training ({pocket['maps']} maps, {pocket['tokens']} tokens), KL "
        f"{pocket['kl']:.4f} and loss {pocket['loss']:.4f} -> {pocket['loss_with']:.4f} nats per token.",
        rows,
    )


if __name__ == "__main__":
    main()
