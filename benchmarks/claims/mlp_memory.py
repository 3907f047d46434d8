"""A memory in place of a search: how much of what nearest neighbours gain on pocket an MLP keeps, and what each costs.

Paper: "MLP Memory: Language Modeling with Retriever-pretrained External Memory". The retriever is exact kNN-LM (arXiv
1911.00172): the states that enter pocket's head on training text, each with the token that followed; the tokens behind
the K nearest, weighted by exp(-distance^2 / temperature), are mixed with pocket's own prediction. The memory learns the
retriever's distributions on the same text (a token's own entry left out), and then is mixed in instead. Shares and the
temperature are chosen on one half of the held-out text, everything is told of the other half.

    python benchmarks/claims/mlp_memory.py
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith import checkpoint
from layersmith.data.examples import Reader
from layersmith.linear.mlp_memory import MLPMemory

LENGTH, STORED, HELD_OUT = 256, 24_576, 8_192
K, SHARES = 16, (0.05, 0.1, 0.2, 0.3, 0.4)
D_HIDDEN, LAYERS, STEPS, BATCH, ALPHA = 768, 2, 800, 256, 0.5


@torch.no_grad()
def states(model: Any, batches: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """What enters the head (N, D), and the token that followed (N,)."""
    seen: list[Tensor] = []
    hook = model.lm_head.register_forward_pre_hook(lambda _, given: seen.append(given[0][:, :-1].flatten(0, 1).clone()))
    for batch in batches:
        model(**batch)
    hook.remove()
    return torch.cat(seen), torch.cat([batch["input_ids"][:, 1:].flatten() for batch in batches])


@torch.no_grad()
def nearest(queries: Tensor, keys: Tensor, own: bool = False) -> tuple[Tensor, Tensor]:
    """Squared distances and indices (N, K) of the nearest keys; with `own`, query i is key i and is left out."""
    found = []
    for start in range(0, len(queries), 512):
        some = queries[start : start + 512]
        apart = some.square().sum(-1, keepdim=True) - 2 * some @ keys.T + keys.square().sum(-1)
        if own:
            apart[torch.arange(len(some)), torch.arange(start, start + len(some))] = math.inf
        found.append(apart.topk(K, largest=False))
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])


def weights(apart: Tensor, temperature: float) -> Tensor:
    return (-apart / temperature).softmax(-1)


def chance(apart: Tensor, tokens: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """(N,) what the retriever gives to each target."""
    return (weights(apart, temperature) * (tokens == targets[:, None])).sum(-1)


def mixed(own: Tensor, other: Tensor, share: float) -> float:
    """Loss in nats per token of a mixture of two chances."""
    return float(-((1 - share) * own + share * other).clamp_min(1e-30).log().mean())


def best(own: Tensor, other: Tensor) -> float:
    return min(SHARES, key=lambda share: mixed(own, other, share))


def remember(head: Tensor, x: Tensor, targets: Tensor, teacher: Tensor, tokens: Tensor) -> MLPMemory:
    """A memory trained on alpha * cross entropy with the retriever + (1 - alpha) * cross entropy with the text.

    The first is the divergence from the retriever but for its entropy, which no training changes.
    """
    torch.manual_seed(0)
    memory = MLPMemory(head.shape[1], head.shape[0], D_HIDDEN, LAYERS, share=1.0)
    memory.weight = torch.nn.Parameter(head.clone(), requires_grad=False)
    learned = [p for p in memory.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-3, weight_decay=0.0)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1 - step / STEPS)
        rows = torch.randint(len(x), (BATCH,))
        told = memory(x[rows])
        retrieved = -(teacher[rows] * told.gather(1, tokens[rows])).sum(-1).mean()
        optimizer.zero_grad()
        (ALPHA * retrieved + (1 - ALPHA) * F.nll_loss(told, targets[rows])).backward()
        optimizer.step()
    return memory.eval()


@torch.no_grad()
def milliseconds(run: Callable[[], object], rounds: int = 30) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * sorted(times)[rounds // 2]


def main() -> None:
    model, tokenizer = checkpoint.load("pocket")
    model.float().eval().requires_grad_(False)
    reader = Reader(model, tokenizer, "stdlib", length=LENGTH)
    keys, values = states(model, reader.batched(reader.read("train", STORED), 4 * LENGTH))
    queries, targets = states(model, reader.batched(reader.read("heldout", HELD_OUT), 4 * LENGTH))
    half = len(queries) // 2
    choose, tell = slice(0, half), slice(half, None)
    head = model.lm_head.weight.detach()
    own = (queries @ head.T).softmax(-1).gather(1, targets[:, None])[:, 0]
    apart, at = nearest(queries, keys)
    spread = float(apart.mean())
    temperatures = [spread * factor for factor in (0.02, 0.05, 0.1, 0.2, 0.5)]

    def loss_at(temperature: float) -> float:
        found = chance(apart[choose], values[at[choose]], targets[choose], temperature)
        return mixed(own[choose], found, best(own[choose], found))

    temperature = min(temperatures, key=loss_at)
    retrieved = chance(apart, values[at], targets, temperature)
    near, who = nearest(keys, keys, own=True)
    memory = remember(head, keys, values, weights(near, temperature), values[who])
    with torch.no_grad():
        remembered = torch.cat([memory(rows).exp() for rows in queries.split(512)]).gather(1, targets[:, None])[:, 0]
    rows: list[dict[str, Any]] = [{"way": "pocket", "share": 0.0, "loss": mixed(own[tell], own[tell], 0.0)}]
    for way, other in (("nearest neighbours", retrieved), ("memory", remembered)):
        share = best(own[choose], other[choose])
        rows.append({"way": way, "share": share, "loss": mixed(own[tell], other[tell], share)})
    one = queries[:1]
    took = {
        "pocket": milliseconds(lambda: one @ head.T),
        "nearest neighbours": milliseconds(lambda: (one @ head.T, nearest(one, keys))),
        "memory": milliseconds(lambda: (one @ head.T, memory(one))),
    }
    held = {"pocket": 0, "nearest neighbours": keys.numel() * 4 + values.numel() * 8,
            "memory": 4 * sum(p.numel() for p in memory.parameters() if p.requires_grad)}  # fmt: skip
    for row in rows:
        row |= {"head_ms": round(took[row["way"]], 3), "added_bytes": held[row["way"]]}
        print(row, flush=True)
    tell_of(rows, len(targets) - half, len(keys))


def tell_of(rows: list[dict[str, Any]], tokens: int, stored: int) -> None:
    """Write what came of the claim, from the rows of pocket, of the search and of the memory."""
    base, search, learned = rows
    gain, kept = base["loss"] - search["loss"], base["loss"] - learned["loss"]
    part = kept / gain if gain > 0 else float("nan")
    faster = search["head_ms"] > learned["head_ms"]
    verdict = "did not hold"
    if gain > 0 and kept > 0 and faster:
        verdict = "held" if part >= 0.5 else "partly"
    save_claim(
        "mlp_memory",
        "mlp_memory",
        "mlp-memory",
        "Most of what nearest neighbours gain, at a fraction of their latency",
        verdict,
        f"Loss of pocket on {tokens} held-out tokens: {base['loss']:.4f} nats alone, {search['loss']:.4f} with the {K} "
        f"nearest of {stored} stored states (share {search['share']}), {learned['loss']:.4f} with a memory trained on "
        f"these (share {learned['share']}): {part:.0%} of the gain. The head takes {base['head_ms']:.3f} ms for one "
        f"token alone, {search['head_ms']:.3f} with the search and {learned['head_ms']:.3f} with the memory; "
        f"{search['added_bytes'] / 2**20:.1f} and {learned['added_bytes'] / 2**20:.1f} MiB more are held.",
        rows,
    )


if __name__ == "__main__":
    main()
