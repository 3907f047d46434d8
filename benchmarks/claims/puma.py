"""Attention and GELU in forms that secret shares allow, put into trained models without any training.

Paper: Dong et al. 2023, "PUMA: Secure Inference of LLaMA-7B in Five Minutes": accuracy stays that of the plain model.
Pocket has SiLU and no GELU, so its attentions alone are replaced; the error of GELU in pieces is measured by itself.
What the cryptography costs is not measured here.

    python benchmarks/claims/puma.py
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith import catalogue, checkpoint
from layersmith.anatomy import find_sites, swap
from layersmith.anatomy.recognise import as_attention
from layersmith.data.examples import Reader
from layersmith.ffn.piecewise_gelu import PiecewiseGELU
from layersmith.measuring.divergence import Divergence, Expected
from layersmith.refitting.methods.limits import shared_config

LENGTH, TEXTS = 256, 16
SQUARINGS = (5, 6, 8)


def main() -> None:
    model, tokenizer = checkpoint.load("pocket")
    model.float().eval().requires_grad_(False)
    reader = Reader(model, tokenizer, "stdlib", length=LENGTH)
    batches = reader.batched(reader.read("heldout", LENGTH * TEXTS), 4 * LENGTH)
    anatomy = find_sites(model)
    attention = {site.name: as_attention(model, site).operator.float() for site in anatomy.of_kind("mixer")}
    rows: list[dict[str, Any]] = []
    for squarings in (None, *SQUARINGS):
        parts = {}
        for name, full in attention.items() if squarings else ():
            parts[name] = catalogue.build(
                {"name": "limit_softmax", **shared_config(full), "squarings": squarings}
            ).eval()
            parts[name].load_state_dict(full.state_dict())
        apart, loss, tokens = Divergence(), 0.0, 0
        with torch.no_grad():
            for batch in batches:
                expected = Expected(model(**batch), batch.get("attention_mask"))
                with swap(model, parts, anatomy):
                    out = model(**batch)
                apart.add_to(expected, out)
                logits, targets = out.logits[:, :-1].flatten(0, 1), batch["input_ids"][:, 1:].flatten()
                loss += float(F.cross_entropy(logits.double(), targets, reduction="sum"))
                tokens += len(targets)
        rows.append({"squarings": squarings, "kl": apart.value, "perplexity": math.exp(loss / tokens)})
        print(rows[-1], flush=True)
    h = torch.linspace(-20, 20, 400_001, dtype=torch.float64)
    gelu = PiecewiseGELU(2, 2)
    rows.append({"gelu_error": float((gelu.activation(h) - F.gelu(h)).abs().max())})
    base = rows[0]["perplexity"]
    at_five = next(row for row in rows if row.get("squarings") == 5)
    change = at_five["perplexity"] / base - 1
    others = ", ".join(f"{row['kl']:.1e} with {row['squarings']}" for row in rows if row.get("squarings") in (6, 8))
    save_claim(
        "puma",
        "limit_softmax",
        "puma-secure-inference-llama-7b",
        "Accuracy stays that of the plain model, without training",
        "held" if abs(change) < 0.01 else "did not hold",
        f"Perplexity of pocket {base:.3f}, and {at_five['perplexity']:.3f} ({change:+.3%}) with 5 squarings in all "
        f"{len(attention)} attentions; KL {at_five['kl']:.1e} nats per token ({others}), on {TEXTS} held-out windows "
        f"of {LENGTH} tokens. GELU in pieces is at most {rows[-1]['gelu_error']:.4f} from GELU between -20 and 20.",
        rows,
    )


if __name__ == "__main__":
    main()
