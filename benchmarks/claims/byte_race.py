"""A small race that claims share: two-layer byte models with different feed-forwards, on standard-library text."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from layersmith.data import text
from layersmith.model.config import TransformerConfig
from layersmith.model.transformer import TransformerLM

D, LAYERS, LENGTH, BATCH = 64, 2, 64, 16


@functools.cache
def stream(split: str, size: int) -> torch.Tensor:
    """The first `size` bytes of a split's documents."""
    raw = bytearray()
    for document in text.read("stdlib", split):
        raw += document.encode()
        if len(raw) >= size:
            break
    return torch.tensor(list(raw[:size]))


def loss_of(model: TransformerLM, rows: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(model(input_ids=rows[:, :-1]).logits.flatten(0, 1), rows[:, 1:].flatten())


def train(
    ffn: dict[str, Any], steps: int, seed: int, before_step: Callable[[TransformerLM, float], None] | None = None
) -> dict[str, Any]:
    """Train a model with this feed-forward; its held-out loss in nats per byte and its parameters.

    before_step   called with the model and the progress from 0 to 1
    """
    torch.manual_seed(seed)
    layer = {
        "norm": {"name": "rms_norm"},
        "mixer": {"name": "softmax_attention", "n_heads": 4, "rope_theta": 1e4},
        "ffn_norm": {"name": "rms_norm"},
        "ffn": ffn,
    }
    config = TransformerConfig(vocab_size=256, d_model=D, layers=LAYERS * [layer], final_norm={"name": "rms_norm"})
    model, data = TransformerLM(config).train(), stream("train", 2_000_000)
    parameters = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    for step in range(steps):
        progress = step / steps
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * (0.55 + 0.45 * math.cos(math.pi * progress))
        if before_step is not None:
            before_step(model, progress)
        starts = torch.randint(len(data) - LENGTH - 1, (BATCH,), generator=draw)
        optimizer.zero_grad()
        loss_of(model, torch.stack([data[s : s + LENGTH + 1] for s in starts.tolist()])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    if before_step is not None:
        before_step(model, 1.0)
    held_out = stream("heldout", 64 * (LENGTH + 1) * 8).reshape(-1, LENGTH + 1)
    with torch.no_grad():
        losses = [float(loss_of(model.eval(), rows)) for rows in held_out.split(64)]
    return {"seed": seed, "steps": steps, "parameters": parameters, "loss": sum(losses) / len(losses)}
