"""Turn a feed-forward into an hourglass: narrow steps, each fitted to what the steps before it left undone.

Paper: arXiv 2602.06471, "Revisiting the Shape Convention of Transformer Language Models". It runs when asked for by
name. Step by step: of the channels not yet used, those with the largest output move into the next sub-MLP with their
trained input weights, and its output map is fitted to the remaining error by ridge regression.
"""

from __future__ import annotations

from typing import Any

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.hourglass import Hourglass
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView


class ToHourglass(Method):
    name = "hourglass"
    kinds = ("ffn",)
    papers = ("2602.06471",)
    builds = ("hourglass",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward with at least 4 hidden channels"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "As a start for further training; its steps run one after the other, so it is not faster than `width` at "
        "equal parameters."
    )
    differs = "A trained start."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.ffn:
            return "it is not a plain or gated feed-forward"
        narrowest = view.ffn.operator.down.in_features // 4
        return "it has fewer than 4 hidden channels" if narrowest < 1 else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"depth": 2, "keep": 0.75}, {"depth": 2, "keep": 0.5}, {"depth": 4, "keep": 0.5}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, config = view.ffn.operator, view.inputs, view.ffn.operator.spec()
        depth, gated = settings["depth"], dense.name == "glu"
        narrow = max(1, round(settings["keep"] * config["d_hidden"] / depth))
        part = Hourglass(config["d_model"], narrow, depth, config["act"], gated, config["bias"]).to(view.device)
        score = hidden_activations(dense, x).square().mean(0).sqrt() * dense.down.weight.norm(dim=0)
        order = score.argsort(descending=True)
        h = x
        steps: Any = part.steps
        for index, step in enumerate(steps):
            # Wrapping around, when keep asks for more channels than there are.
            chosen = order[torch.arange(index * narrow, (index + 1) * narrow, device=order.device) % len(order)]
            for name in ("gate", "up") if gated else ("up",):
                weights = getattr(dense, name).state_dict()
                getattr(step, name).load_state_dict({key: value[chosen] for key, value in weights.items()})
            fit_linear(step.down, hidden_activations(step, h), x + view.targets - h, strength=1e-4)
            h = h + step(h)
        return view.as_replacement(part)
