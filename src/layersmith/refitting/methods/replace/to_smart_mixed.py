"""Give every hidden neuron of a feed-forward the activation of a pool that follows its trained one best.

Paper: arXiv 2510.22450, "SmartMixed". From a gated feed-forward the target of a neuron is the product of gate and
value, so a third of the parameters goes. Each neuron takes the activation whose values have the largest squared
correlation with its target; the output map is refitted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.smart_mixed import POOL, SmartMixed
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToSmartMixed(Method):
    name = "smart_mixed"
    kinds = ("ffn",)
    papers = ("2510.22450",)
    builds = ("smart_mixed",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "To see which activations a trained layer can do without, or as a start for further training; it is no "
        "cheaper than an MLP and runs only when asked for by name."
    )
    differs = "The choice is made once, on calibration activations, not learned by gradients."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"own": True}, {"own": False}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        config = mlp.spec()
        # With its own activation in the pool, an MLP's neurons can stay as they are.
        pool = list(dict.fromkeys([config["act"], *POOL] if settings["own"] else POOL))
        part = SmartMixed(config["d_model"], config["d_hidden"], pool).to(view.device)
        part.up.weight.copy_(mlp.up.weight)
        part.up.bias.copy_(torch.zeros_like(part.up.bias) if mlp.up.bias is None else mlp.up.bias)
        before, target = part.up(view.inputs), hidden_activations(view.ffn.operator, view.inputs)
        fit = torch.stack([correlation(act(before), target) for act in part.acts], dim=-1)
        part.logits = torch.nn.Parameter(fit)
        frozen = part.eval().freeze()
        groups = frozen.up(view.inputs).split(frozen.counts(), dim=-1)
        hidden = torch.cat([act(group) for act, group in zip(frozen.acts, groups, strict=True)], dim=-1)
        fit_linear(frozen.down, hidden, view.targets)
        return view.as_replacement(frozen)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Squared correlation of each column of a with that of b, both (tokens, n); 0 for columns that do not vary."""
    a, b = a - a.mean(0), b - b.mean(0)
    return (a * b).sum(0).square() / (a.square().sum(0) * b.square().sum(0)).clamp_min(1e-30)
