"""Narrow a feed-forward: keep the hidden channels that matter, refit the down projection to what is left.

Paper: arXiv 2501.17771, "2SSP" (stage 1): a channel's score is the norm of its activation over the calibration
tokens; as in Puzzle (arXiv 2411.19146) it is multiplied by the norm of the channel's output weights.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.contract import Operator
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge_from_moments
from layersmith.refitting.view import SublayerView

KEEPS = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125)


class Width(Method):
    name = "width"
    kinds = ("ffn",)
    papers: ClassVar[tuple[str, ...]] = ("2501.17771", "2411.19146")
    missing = (
        "the paper's second stage, which removes attention sublayers by perplexity, and its balance between the two "
        "stages"
    )
    builds = ("glu", "mlp")
    default = True
    saves = ("latency", "params", "bytes", "flops")
    chains = True
    requires = "a plain or gated feed-forward"
    statistics: ClassVar[tuple[str, ...]] = ("inputs",)
    distils = True
    when_it_pays = "Nearly always the best trade on dense hardware, because the result is a smaller dense feed-forward."
    differs = (
        "The kept channels' output weights are refitted by ridge regression to the original output, and a norm is "
        "taken over all tokens at once (2SSP averages norms over samples, Puzzle's code takes mean magnitudes)."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": keep} for keep in KEEPS]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, gram = view.ffn.operator, hidden_gram(view)
        score = gram.diagonal().sqrt() * dense.down.weight.norm(dim=0)
        return view.as_replacement(narrow(dense, gram, score, settings["keep"]))


def hidden_activations(dense: Any, x: Tensor) -> Tensor:
    """(tokens, d_hidden): what enters the down projection of our `GLU` or `MLP`."""
    with torch.no_grad():
        up = dense.up(x)
        return dense.act(dense.gate(x)) * up if dense.name == "glu" else dense.act(up)


def hidden_gram(view: SublayerView) -> Tensor:
    """(d_hidden, d_hidden) float64: mean over tokens of h h^T, where h enters the down projection."""

    def make() -> Tensor:
        hidden = hidden_activations(view.ffn.operator, view.inputs).double()
        return hidden.T @ hidden / len(hidden)

    return view.once("hidden gram", make)


def strongest(score: Tensor, keep: float) -> Tensor:
    """The indices, ascending, of the share `keep` of the hidden channels that has the highest scores (d_hidden,)."""
    # Multiples of 8 keep matrix kernels on their fast path.
    width = min(len(score), max(8, round(keep * len(score) / 8) * 8))
    return score.topk(width).indices.sort().values


@torch.no_grad()
def sliced(dense: Any, kept: Tensor) -> Operator:
    """The `GLU` or `MLP` with these hidden channels alone, their weights as they were."""
    small = catalogue.build({**dense.spec(), "d_hidden": len(kept)}).to(kept.device)
    for name in ("gate", "up") if dense.name == "glu" else ("up",):
        large, linear = getattr(dense, name), getattr(small, name)
        linear.weight.copy_(large.weight[kept])
        if linear.bias is not None:
            linear.bias.copy_(large.bias[kept])
    small.down.weight.copy_(dense.down.weight[:, kept])
    if small.down.bias is not None:
        small.down.bias.copy_(dense.down.bias)
    return small


def narrow(dense: Any, gram: Tensor, score: Tensor, keep: float) -> Operator:
    """The `GLU` or `MLP` with the best-scored share `keep` of the hidden channels, its down projection refitted.

    gram   of the hidden activations, as `hidden_gram` gives it
    score  (d_hidden,): the higher, the more a channel matters
    """
    kept = strongest(score, keep)
    small: Any = sliced(dense, kept)
    target = gram @ dense.down.weight.double().T
    with torch.no_grad():
        small.down.weight.copy_(ridge_from_moments(gram[kept][:, kept], target[kept], strength=1e-4))
    return small
