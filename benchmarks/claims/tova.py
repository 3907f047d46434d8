"""arXiv 2401.06104: dropping what the newest token attends to least keeps more than a window does, at 1/8 of the cache.

On pocket, in windows of 512 tokens of held-out text: every attention gets the same limit, its weights stay as they
were, and nothing is trained. `chunk` is how many tokens come between two choices (1 is the paper's rule).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith import catalogue, checkpoint
from layersmith.anatomy import find_sites, swap
from layersmith.anatomy.recognise import as_attention
from layersmith.contract import Operator
from layersmith.data.examples import Reader
from layersmith.measuring.divergence import Divergence, Expected
from layersmith.refitting.methods.limits import shared_config

LENGTH, TEXTS = 512, 16


def limited(full: nn.Module, name: str, **settings: int) -> Operator:
    config = {k: v for k, v in shared_config(full).items() if name != "tova" or k != "causal"}
    part = catalogue.build({"name": name, **config, **settings}).eval()
    part.load_state_dict(full.state_dict())
    return part


RULES: dict[str, Callable[[nn.Module, int], Operator]] = {
    "tova": lambda full, keep: limited(full, "tova", keep=keep, chunk=16),
    "tova, chunk 1": lambda full, keep: limited(full, "tova", keep=keep, chunk=1),
    "window": lambda full, keep: limited(full, "pattern_attention", size=keep),
    "window, 4 sinks": lambda full, keep: limited(full, "pattern_attention", size=keep - 4, first=4),
}

model, tokenizer = checkpoint.load("pocket")
model.float().eval().requires_grad_(False)
reader = Reader(model, tokenizer, "stdlib", length=LENGTH)
batches = reader.batched(reader.read("heldout", LENGTH * TEXTS), 4 * LENGTH)
anatomy = find_sites(model)
attention = {site.name: as_attention(model, site).operator.float() for site in anatomy.of_kind("mixer")}


@torch.no_grad()
def judged(rule: str | None, keep: int) -> dict[str, float]:
    parts = {} if rule is None else {name: RULES[rule](full, keep) for name, full in attention.items()}
    apart, loss, tokens = Divergence(), 0.0, 0
    for batch in batches:
        expected = Expected(model(**batch), batch.get("attention_mask"))
        with swap(model, parts, anatomy):
            out = model(**batch)
        apart.add_to(expected, out)
        targets = batch["input_ids"][:, 1:]
        loss += float(F.cross_entropy(out.logits[:, :-1].flatten(0, 1).double(), targets.flatten(), reduction="sum"))
        tokens += targets.numel()
    return {"kl": apart.value, "loss": loss / tokens}


rows = [{"rule": "full attention", "keep": LENGTH, **judged(None, LENGTH)}]
for keep in (LENGTH // 2, LENGTH // 4, LENGTH // 8):
    for rule in RULES:
        rows.append({"rule": rule, "keep": keep, **judged(rule, keep)})
        print(rows[-1], flush=True)
kl = {(row["rule"], row["keep"]): row["kl"] for row in rows}
better = [kl["tova, chunk 1", keep] <= min(kl["window", keep], kl["window, 4 sinks", keep]) for keep in (256, 128, 64)]


def told(keep: int) -> str:
    return ", ".join(f"{rule} {kl[rule, keep]:.4f}" for rule in RULES)


save_claim(
    "tova",
    "tova",
    "2401.06104",
    "With as large a cache, dropping the least attended token costs less than keeping a window, down to 1/8 of it",
    "held" if all(better) else "partly" if any(better) else "did not hold",
    f"KL of pocket on {TEXTS} windows of {LENGTH} tokens, all layers limited, nothing trained. At 1/8 of the cache: "
    f"{told(LENGTH // 8)}; at 1/4: {told(LENGTH // 4)}; at 1/2: {told(LENGTH // 2)}.",
    rows,
)
