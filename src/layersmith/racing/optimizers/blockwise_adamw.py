"""Blockwise learning rates: the flatter the loss along a kind of weights, the larger the steps of AdamW along it.

    kind       embedding and output map   queries and keys   feed-forward   values and outputs   norms and biases
    factor               10                       8                6                 4                   1

on the learning rate, which is thus that of norms.

Paper: "The Sharpness Disparity Principle in Transformers for Accelerating Language Model Pre-Training", which measures
the sharpness of these kinds in trained models and finds this order.
Differs from the paper: its factors could not be confirmed in its text; the matrices of mixers that have no queries and
keys by these names count as values and outputs.
"""

from __future__ import annotations

import torch
from torch import nn

from layersmith.racing.optimizer import BETAS, ENDS, Rule

FACTORS = {"ends": 10.0, "queries and keys": 8.0, "ffn": 6.0, "values and outputs": 4.0, "vectors": 1.0}


class BlockwiseAdamW(Rule):
    """
    flat  True: all factors 1, which is AdamW
    """

    name = "blockwise_adamw"
    summary = "AdamW with a learning rate for each kind of weights, larger where the loss is flatter."
    papers = ("sharpness-disparity-principle-transformers-accelerating",)
    lrs = (1e-4, 3e-4, 1e-3)

    def __init__(self, flat: bool = False):
        self.flat = flat

    def optimizers(self, model: nn.Module, lr: float, weight_decay: float) -> list[torch.optim.Optimizer]:
        kinds: dict[str, list[nn.Parameter]] = {kind: [] for kind in FACTORS}
        for name, p in model.named_parameters():
            if p.requires_grad:
                kinds[kind_of(name, p)].append(p)
        groups = [
            {
                "params": found,
                "times": 1.0 if self.flat else FACTORS[kind],
                "weight_decay": 0.0 if kind == "vectors" else weight_decay,
            }
            for kind, found in kinds.items()
            if found
        ]
        return [torch.optim.AdamW(groups, lr=lr, betas=BETAS)]


def kind_of(name: str, p: nn.Parameter) -> str:
    """The kind of a parameter of a `TaskModel`, by its name: "layers.0.mixer.q.weight"."""
    places = name.split(".")
    if p.ndim <= 1:
        return "vectors"
    if places[0] in ENDS:
        return "ends"
    if "ffn" in places:
        return "ffn"
    return "queries and keys" if {"q", "k"} & set(places) else "values and outputs"
