"""Parameters by what they are, for schemes that give each kind its own learning rate."""

from __future__ import annotations

from typing import Any

from torch import nn

from layersmith.model import TransformerLM

#: What a parameter is: the token table; matrices inside the layers; all else in the layers; the last norm; the output.
KINDS = ("embedding", "hidden", "layer_vectors", "final_vectors", "readout")


def by_kind(model: TransformerLM) -> dict[str, list[nn.Parameter]]:
    """Every trainable parameter under one of `KINDS`; a tied table is the embedding."""
    found: dict[str, list[nn.Parameter]] = {kind: [] for kind in KINDS}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.startswith("embed_tokens."):
            kind = "embedding"
        elif name.startswith("lm_head."):
            kind = "readout"
        elif name.startswith("layers."):
            kind = "hidden" if parameter.dim() > 1 else "layer_vectors"
        else:
            kind = "final_vectors"
        found[kind].append(parameter)
    return found


def groups(model: TransformerLM, lr: float, factors: dict[str, float]) -> list[dict[str, Any]]:
    """Parameter groups at lr times the factor of each kind."""
    kinds = by_kind(model)
    return [{"params": kinds[kind], "lr": lr * factors[kind]} for kind in KINDS if kinds[kind]]
