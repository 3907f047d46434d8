"""A small byte-level language model on the standard library's text: what claims about training are tried on."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from layersmith.data.text import read
from layersmith.model import TransformerConfig, TransformerLM


def text(split: str, limit: int = 4_000_000) -> Tensor:
    """Bytes of the split as token ids."""
    joined = "\n".join(read("stdlib", split)).encode()[:limit]
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8).long()


def model(norm: dict[str, Any], layers: int, width: int, position: str = "pre") -> TransformerLM:
    """Softmax attention with RoPE and a GELU MLP of four widths; embeddings start at variance 1."""
    layer = {
        "norm": norm,
        "mixer": {"name": "softmax_attention", "n_heads": 4, "rope_theta": 1e4},
        "ffn_norm": norm,
        "ffn": {"name": "mlp", "d_hidden": 4 * width},
    }
    config = TransformerConfig(
        vocab_size=256,
        d_model=width,
        layers=layers * [layer],
        norm_position=position,
        final_norm=norm if position == "pre" else None,
        tie_word_embeddings=False,
    )
    made = TransformerLM(config)
    torch.nn.init.normal_(made.embed_tokens.weight)
    return made


def windows(ids: Tensor, count: int, length: int, generator: torch.Generator) -> Tensor:
    starts = torch.randint(len(ids) - length, (count, 1), generator=generator)
    return ids[starts + torch.arange(length)]


def train(
    lm: TransformerLM, ids: Tensor, steps: int, lr: float, warmup: int, seed: int, batch: int = 8, length: int = 128
) -> float:
    """AdamW with a linear warm-up (0: none) and a cosine to a tenth; returns the mean loss of the last twenty steps."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    losses = []
    for step in range(steps):
        rate = lr * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / max(warmup, 1))
        x = windows(ids, batch, length, generator)
        loss = lm.train()(input_ids=x, labels=x).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-20:]) / len(losses[-20:])


@torch.no_grad()
def heldout(lm: TransformerLM, ids: Tensor, length: int = 128) -> float:
    """Loss in nats per byte on 64 fixed windows of held-out text."""
    x = windows(ids, 64, length, torch.Generator().manual_seed(1))
    return float(lm.eval()(input_ids=x, labels=x).loss)
