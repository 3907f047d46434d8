"""Keep the hidden channels that are furthest from linear, and put one D x D matrix in place of all the others.

Paper: arXiv 2505.21847, "RePaViT", whose channel-idle feed-forward merges its linear channels into one matrix. Most
at strong compression: on pocket, with every feed-forward at 3/8 of its parameters, the KL is 0.57 against 0.88; at
5/8 `width` is ahead (0.16 against 0.19), both before distillation. Channels are ranked by the part of their output
that a linear map of the input cannot predict.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.idle_ffn import IdleFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView


class ToIdleFFN(Method):
    name = "idle_ffn"
    kinds = ("ffn",)
    papers = ("2505.21847",)
    builds = ("idle_ffn",)
    default = True
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "As for `width`, whose small feed-forward it extends by that matrix: what a dropped channel did that is "
        "linear in the input is kept."
    )
    differs = (
        "A trained start: which channels are idle is chosen, not fixed beforehand; the matrix and the kept channels' "
        "output weights are fitted together to the original output by ridge regression, starting from the trained "
        "weights; a gated feed-forward keeps its gate on the active channels."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": keep} for keep in (0.5, 0.25)]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x = view.ffn.operator, view.inputs
        hidden, left = view.once("idle_ffn", lambda: _channels(dense, x))
        d_model, d_hidden = x.shape[1], hidden.shape[1]
        # Multiples of 8 keep matrix kernels on their fast path.
        width = min(d_hidden, max(8, round(settings["keep"] * d_hidden / 8) * 8))
        score = left * dense.down.weight.norm(dim=0)
        kept = score.topk(width).indices.sort().values
        config = dense.spec()
        part = IdleFFN(d_model, width, None, config["act"], gated=dense.name == "glu", bias=config["bias"])
        part.to(view.device)
        names = ("gate", "up") if part.gate is not None else ("up",)
        state = {f"{name}.{k}": v[kept] for name in names for k, v in getattr(dense, name).state_dict().items()}
        active, down = hidden[:, kept], dense.down.weight[:, kept]
        # Ridge towards the trained output weights: what is fitted is the correction to them.
        features = torch.cat([active, x], dim=1)
        change, shift = ridge(features, view.targets - active @ down.T, strength=1e-4, bias=config["bias"])
        state |= {"down.weight": down + change[:, :width], "merged.weight": change[:, width:]}
        if config["bias"]:
            state["down.bias"] = shift
        part.load_state_dict(state)
        return view.as_replacement(part)


def _channels(dense: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden channels (tokens, d_hidden), and what `nonlinear_part` says of them."""
    hidden = hidden_activations(dense, x)
    return hidden, nonlinear_part(x, hidden)


def nonlinear_part(x: Tensor, hidden: Tensor) -> Tensor:
    """(d_hidden,): root mean square of what the best affine map of x leaves of each hidden channel."""
    weight, bias = ridge(x, hidden)
    return (hidden - x @ weight.T - bias).square().mean(0).sqrt()
