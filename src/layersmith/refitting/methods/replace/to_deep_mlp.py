"""Give a feed-forward a third linear layer that changes nothing yet, as a start for further training.

Paper: arXiv 2505.06633, "Attention Is Not All You Need: The Importance of Feedforward Networks". The new middle layer
is the identity with a bias that lifts the hidden values to where the activation is the identity too; the last layer's
bias takes the lift off again. From a gated feed-forward, its nearest MLP is deepened.
"""

from __future__ import annotations

from typing import Any

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.deep_mlp import DeepMLP
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView

#: activation -> the lift above which act(z) = z to float32 accuracy for all values it yields itself
LIFT = {"identity": 0.0, "relu": 0.0, "elu": 1.0, "gelu": 6.0, "gelu_tanh": 6.0, "quick_gelu": 11.0, "silu": 18.0}


class ToDeepMLP(Method):
    name = "deep_mlp"
    kinds = ("ffn",)
    papers = ("2505.06633",)
    builds = ("deep_mlp",)
    default = False
    saves = ()
    requires = "a plain or gated feed-forward whose activation is the identity somewhere"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "It is larger than what it replaces and runs only when asked for by name."
    differs = "A trained start."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.ffn:
            return "it is not a plain or gated feed-forward"
        act = view.ffn.operator.spec()["act"]
        return None if act in LIFT else f"its activation {act} is nowhere the identity"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"layers": 3}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        config = mlp.spec()
        part = DeepMLP(config["d_model"], config["d_hidden"], settings["layers"], config["act"]).to(view.device)
        layers: Any = part.layers
        first, *middle, last = layers
        for target, source in ((first, mlp.up), (last, mlp.down)):
            target.weight.copy_(source.weight)
            target.bias.copy_(torch.zeros_like(target.bias) if source.bias is None else source.bias)
        lift = LIFT[config["act"]]
        for index, layer in enumerate(middle):
            torch.nn.init.eye_(layer.weight)
            layer.bias.fill_(lift if index == 0 else 0.0)
        if middle:
            last.bias.sub_(lift * last.weight.sum(1))
        return view.as_replacement(part)
