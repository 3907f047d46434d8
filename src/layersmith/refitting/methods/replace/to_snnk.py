"""Turn a feed-forward into random features and one fitted matrix.

Paper: "Scalable Neural Network Kernels", ICLR 2024 (bundling). The features know nothing of the trained
weights; the one matrix is their best linear read-out of the sublayer's output, by ridge regression. It trains less
(one of two matrices), but it stores and multiplies by the random one too, and at equal arithmetic narrowing (`width`)
is far closer. It runs only when asked for.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.snnk import SNNK
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.view import SublayerView


class ToSNNK(Method):
    name = "snnk"
    kinds = ("ffn",)
    papers = ("scalable-neural-network-kernels",)
    builds = ("snnk",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "Hardly ever for a trained feed-forward: at equal arithmetic narrowing (`width`) is far closer."
    differs = "The least squares are over the layer's own activations, with a constant."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        hidden = view.ffn.operator.down.in_features
        return [{"features": hidden}, {"features": hidden // 2}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        with torch.random.fork_rng():
            torch.manual_seed(view.seed)
            part = SNNK(view.site.d_model, settings["features"])
        part.to(view.device)
        fit_linear(part.out, part.phi(view.inputs), view.targets, strength=1e-4)
        return view.as_replacement(part)
