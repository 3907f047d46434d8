"""Turn a feed-forward into squared cosines with its neurons' directions, the output map fitted.

Paper: "Scalable quantum neural networks by few quantum resources". Length and sign of the input are lost, and with them
most of what a trained feed-forward does; it is there to be distilled, and to see what they were worth.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.swap_test import SwapTest
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToSwapTest(Method):
    name = "swap_test"
    kinds = ("ffn",)
    papers = ("scalable-quantum-neural-networks-few",)
    builds = ("swap_test",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Not as it is: it sees neither length nor sign of its input; it is there to measure what these are worth, and "
        "runs only when asked for by name."
    )
    differs = "The start is a trained layer's directions, not random ones."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        part = SwapTest(view.site.d_model, mlp.up.out_features).to(view.device)
        part.up.weight.copy_(mlp.up.weight)
        fit_linear(part.down, part.overlaps(view.inputs), view.targets)
        return view.as_replacement(part)
