"""First-order importance of hidden channels: activation x gradient of the model's output entropy, per feed-forward.

    score_c = mean over tokens of  h_c * d/dh_c  sum_t H(softmax(logits_t)),   H(p) = -sum_v p_v log p_v

It is what the output entropy would change, to first order, if channel c were set to zero; `taylor_size` is the mean of
the magnitudes of the same products, in which what a channel does at one token does not cancel what it does at another.
Padding counts in none of this.

Papers: arXiv 2603.08100, "Adaptive MLP Pruning", whose released code (visresearch/AMP) takes the size of the sum over
the tokens of an image and the mean over images, and 2603.08083, its sister for language models, whose code
(visresearch/HFPrune) is the second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.anatomy import Anatomy
from layersmith.anatomy.recognise import as_ffn
from layersmith.anatomy.running import plainly
from layersmith.refitting.calibrate.batches import Batch
from layersmith.runs.workspace import Workspace

NAME = "statistics/taylor_scores"


def taylor_scores(
    model: nn.Module, anatomy: Anatomy, batches: list[Batch], workspace: Workspace
) -> dict[str, dict[str, Tensor]]:
    """{site: {"taylor": (d_hidden,), "taylor_size": (d_hidden,)}} in float32 for every recognised feed-forward.

    Empty where there is none, and for a model without logits.

    Memory: the activations of one batch through the whole model, as in training.
    """
    if not workspace.has_tensors(NAME):
        workspace.save_tensors(NAME, _compute(model, anatomy, batches) or {"none": torch.zeros(1)})
    return stored_scores(workspace)


def stored_scores(workspace: Workspace) -> dict[str, dict[str, Tensor]]:
    """What `taylor_scores` stored; empty when no method asked for it."""
    saved = workspace.load_tensors(NAME) or {}
    return {name: {"taylor": both[0], "taylor_size": both[1]} for name, both in saved.items() if name != "none"}


def _compute(model: nn.Module, anatomy: Anatomy, batches: list[Batch]) -> dict[str, Tensor]:
    downs: dict[str, nn.Module] = {}
    for site in anatomy.of_kind("ffn"):
        found = as_ffn(model, site)
        if found is not None and "down" in found.parts:
            downs[site.name] = model.get_submodule(found.parts["down"])
    if not downs:
        return {}  # no hidden channels to score, so nothing to ask a gradient of
    seen: dict[str, list[Tensor]] = {}

    def keeper(name: str) -> Callable[..., Any]:
        def keep(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            # The weights are frozen, so the graph has to start somewhere: here, at the hidden activation.
            hidden = args[0] if args[0].requires_grad else args[0].detach().requires_grad_(True)
            hidden.retain_grad()
            seen.setdefault(name, []).append(hidden)
            return (hidden, *args[1:])

        return keep

    hooks = [m.register_forward_pre_hook(keeper(n)) for n, m in downs.items()]
    sums: dict[str, Tensor] = {}
    tokens = 0
    try:
        for batch in batches:
            seen.clear()
            with plainly(model):
                logits = getattr(model(**batch), "logits", None)
                if logits is None or logits.ndim != 3 or not logits.requires_grad:
                    return {}
                log_p = F.log_softmax(logits.float(), dim=-1)
                real = _real(batch, logits)
                (-(log_p.exp() * log_p).sum(-1) * real).sum().backward()
            for name, hiddens in seen.items():
                for hidden in hiddens:
                    if hidden.grad is None:  # what the output does not depend on scores nothing
                        continue
                    products = (hidden.detach().float() * hidden.grad.float()).flatten(0, -2)
                    score = torch.stack((products.sum(0), products.abs().sum(0)))
                    sums[name] = sums.get(name, torch.zeros_like(score)) + score
            tokens += int(real.sum())
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / max(1, tokens) for name, total in sums.items()}


def _real(batch: Batch, logits: Tensor) -> Tensor:
    """1 where a token of the output is one of the text, 0 where it is padding, (B, T)."""
    mask = batch.get("decoder_attention_mask", batch.get("attention_mask"))
    shape = logits.shape[:2]
    return logits.new_ones(shape) if mask is None or mask.shape != shape else mask.to(logits.dtype)
