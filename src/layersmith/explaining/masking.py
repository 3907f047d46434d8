"""Masks over the weights of a frozen model: which of them are kept, learnt by continuous sparsification.

    m = sigmoid(beta s),      loss + penalty * mean of m,      beta grows in equal ratios from 1 to 200

A score s for each weight starts at 0, and at the end a weight is kept where s > 0. Other weights become 0.

Papers: Savarese et al. 2020, "Winning the Lottery with Continuous Sparsification" (the mask); "Bigram Subnetworks:
Mapping to Next Tokens in Transformer Language Models" (its penalty on the mean; embeddings, norms and the map to logits
are kept whole; confirmed in the released code).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from layersmith.anatomy import Site
from layersmith.measuring.divergence import main_output
from layersmith.measuring.inputs import without_cache

Masks = dict[str, Tensor]
#: The last beta.
SHARPEST = 200.0


def maskable(model: nn.Module, sites: Sequence[Site]) -> dict[str, Tensor]:
    """Name -> weight matrix inside feed-forwards and mixers at the sites, each tensor once."""
    inside = tuple(f"{path}." for site in sites if site.kind in ("ffn", "mixer") for path in site.modules)
    return {name: p for name, p in model.named_parameters() if name.startswith(inside) and p.ndim == 2}


def masked(model: Any, weights: dict[str, Tensor], masks: Masks, batch: dict[str, Tensor]) -> Tensor:
    """The model's logits (B, T, V) with those weights times their masks."""
    changed = {name: weight * masks[name].to(weight.dtype) for name, weight in weights.items()}
    return main_output(functional_call(model, changed, kwargs={**batch, **without_cache(model)}))


def learn(
    weights: dict[str, Tensor],
    loss: Callable[[Masks, int], Tensor],
    steps: int,
    rate: float,
    penalty: float,
    tell: Callable[[str, int, int], None],
) -> Masks:
    """Name -> bool, which weights to keep. loss(masks, step) is what soft masks are trained to lower."""
    scores = {name: torch.zeros_like(w, dtype=torch.float32, requires_grad=True) for name, w in weights.items()}
    optimizer = torch.optim.Adam(scores.values(), lr=rate)
    count = sum(w.numel() for w in weights.values())
    with torch.enable_grad():
        for step in range(steps):
            beta = SHARPEST ** (step / max(1, steps - 1))
            masks = {name: torch.sigmoid(beta * score) for name, score in scores.items()}
            kept = torch.stack([mask.sum() for mask in masks.values()]).sum() / count
            whole = loss(masks, step) + penalty * kept
            optimizer.zero_grad()
            whole.backward()
            optimizer.step()
            tell("learning a mask", step + 1, steps)
    return {name: score.detach() > 0 for name, score in scores.items()}


def random_like(masks: Masks, seed: int) -> Masks:
    """As many weights kept of each matrix, drawn at random."""
    draw: Any = {"generator": torch.Generator().manual_seed(seed), "device": "cpu"}
    drawn = {}
    for name, mask in masks.items():
        order = torch.randperm(mask.numel(), **draw).to(mask.device)
        drawn[name] = (order < mask.sum()).view_as(mask)
    return drawn


def without(masks: Masks) -> Masks:
    """The other weights."""
    return {name: ~mask for name, mask in masks.items()}
