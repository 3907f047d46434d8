"""Bytes kept for the backward pass: a fixed point with implicit gradients beside the same layer looped so many times.

Paper: Bai et al. 2019, "Deep Equilibrium Models": memory does not grow with depth, up to 88 % less of it. What counts
here are the distinct storages that autograd keeps between forward and backward, parameters apart.

    python benchmarks/claims/deq_memory.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith import catalogue

D, BATCH, TOKENS = 128, 2, 128
TURNS = (1, 2, 4, 8, 16, 32)
NORM = {"name": "rms_norm"}
LAYER = {
    "norm": NORM,
    "mixer": {"name": "softmax_attention", "n_heads": 4, "rope_theta": 10000.0},
    "ffn_norm": NORM,
    "ffn": {"name": "glu", "d_hidden": 256},
}


def kept_bytes(spec: dict[str, Any]) -> int:
    """What autograd keeps after one forward of the block in training."""
    torch.manual_seed(0)
    block = catalogue.build({"d_model": D, **spec}).train()
    own = {p.untyped_storage().data_ptr() for p in block.parameters()}
    kept: dict[int, int] = {}
    held: list[torch.Tensor] = []  # alive, so that no storage is counted for another that was freed

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y, _ = block(torch.randn(BATCH, TOKENS, D).requires_grad_())
    del y
    return sum(kept.values())


def main() -> None:
    rows = []
    for turns in TURNS:
        looped = kept_bytes({"name": "looped", "layers": [LAYER], "times": turns, "inject": True})
        deq = kept_bytes({"name": "deq", "layers": [LAYER], "norm": NORM, "steps": turns, "tolerance": 0.0})
        rows.append({"turns": turns, "looped_bytes": looped, "deq_bytes": deq, "saved": 1 - deq / looped})
        print(rows[-1], flush=True)
    last = rows[-1]
    constant = len({row["deq_bytes"] for row in rows}) == 1
    saved = next((row["turns"] for row in rows if row["saved"] >= 0.88), None)
    save_claim(
        "deq_memory",
        "deq",
        "deep-equilibrium-models",
        "memory that does not grow with depth, up to 88 % less",
        "held" if constant and saved is not None else "partly" if constant else "did not hold",
        f"{last['deq_bytes'] / 2**20:.1f} MiB kept for the backward pass at any number of steps, against "
        f"{last['looped_bytes'] / 2**20:.1f} MiB of the same layer looped {last['turns']} times "
        f"({last['saved']:.0%} less; D {D}, {BATCH} x {TOKENS} tokens, float32)",
        rows,
    )


if __name__ == "__main__":
    main()
