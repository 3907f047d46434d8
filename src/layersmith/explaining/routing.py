"""The routers of a model's mixtures of experts: who is chosen, and a choice that is overruled.

A router is a module of transformers named `...TopKRouter` that returns (logits (N, E), weights (N, k), chosen (N, k)).
The weights of all that are taken here are softmax(logits) at the k largest, divided by their sum or not, as Mixtral,
Qwen3-MoE and OLMoE have them; one that computes something else is refused when it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.errors import UserError

#: How far above the largest log-probability, or below the smallest, an overruled expert is put.
MARGIN = 0.01


def routers(model: nn.Module) -> dict[str, nn.Module]:
    """Path -> router, in the order of the model. Raises UserError for a model without any."""
    found = {path: m for path, m in model.named_modules() if type(m).__name__.endswith("TopKRouter")}
    if not found:
        raise UserError(
            f"{type(model).__name__} has no routers that are known here. Experts are counted and steered in mixtures "
            "whose router is one of transformers' TopKRouter modules, such as Mixtral's, Qwen3-MoE's and OLMoE's."
        )
    return found


@contextmanager
def counting(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Inside, every forward adds to what is yielded: router -> (E + 1,), tokens that chose each expert, and all.

    For text without padding: every token counts.
    """
    counts: dict[str, Tensor] = {}

    def add(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: tuple[Tensor, Tensor, Tensor]) -> None:
            logits, _, chosen = output
            rows = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device).scatter(1, chosen, 1.0)
            found = torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1).sum(0)
            counts[path] = counts[path] + found if path in counts else found

        return hook

    with ExitStack() as undo:
        for path, module in routers(model).items():
            undo.callback(module.register_forward_hook(add(path)).remove)
        yield counts


@contextmanager
def steered(model: nn.Module, rules: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, routers follow rules (E,): 1 always among the first, -1 always among the last, 0 as it is.

    Weights stay as they are. A router without a rule, or with zeros alone, is not touched.
    """
    found = routers(model)
    with ExitStack() as undo:
        for path, rule in rules.items():
            if rule.any():
                undo.callback(found[path].register_forward_hook(_overruling(path, rule)).remove)
        yield


def overruled(logits: Tensor, rule: Tensor) -> Tensor:
    """Log-probabilities (N, E), those of ruled experts put just above the largest or just below the smallest."""
    log_p = logits.float().log_softmax(-1)
    most, least = log_p.amax(-1, keepdim=True) + MARGIN, log_p.amin(-1, keepdim=True) - MARGIN
    return torch.where(rule > 0, most, torch.where(rule < 0, least, log_p))


def _overruling(path: str, rule: Tensor) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    def hook(module: nn.Module, args: Any, output: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, chosen = output
        k = chosen.shape[1]
        normed = _normed(path, logits, weights, chosen)
        changed = overruled(logits, rule.to(logits.device))
        value, best = changed.softmax(-1).topk(k, dim=-1)
        value = value / value.sum(-1, keepdim=True) if normed else value
        return changed.to(logits.dtype), value.to(weights.dtype), best

    return hook


def _normed(path: str, logits: Tensor, weights: Tensor, chosen: Tensor) -> bool:
    """Whether the router divides its weights by their sum. Raises UserError for weights that are none of both."""
    p = logits.float().softmax(-1).gather(-1, chosen)
    near = 1e-2 if weights.dtype in (torch.bfloat16, torch.float16) else 1e-4
    for normed, wanted in ((True, p / p.sum(-1, keepdim=True)), (False, p)):
        if torch.allclose(weights.float(), wanted, atol=near):
            return normed
    raise UserError(
        f"The router {path!r} does not weigh its experts by the softmax of its logits, so what it would do with others "
        "is not known here. Mixtures routed as in Mixtral, Qwen3-MoE and OLMoE can be steered."
    )
