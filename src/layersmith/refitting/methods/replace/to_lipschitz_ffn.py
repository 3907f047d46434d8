"""Turn a feed-forward into one with a certified Lipschitz bound, starting as its best linear map.

Paper: arXiv 2301.11526, "Direct Parameterization of Lipschitz-Bounded Deep Networks". The ridge map M of the
sublayer's output from its input has the bound gamma = ||M||. With M / gamma = P diag(sin 2t) Q^T, the sandwich layer
of A^T = P diag(sin t), B = diag(cos t) Q^T is that map while every ReLU is open, and biases keep them open on the
calibration tokens. It is not nearer than the linear map before distillation, and costs more, so it runs only when
asked for.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.lipschitz_ffn import LipschitzFFN, inverse_cayley
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import SublayerView


class ToLipschitzFFN(Method):
    name = "lipschitz_ffn"
    kinds = ("ffn",)
    papers = ("2301.11526",)
    builds = ("lipschitz_ffn",)
    default = False
    saves = ("params", "bytes", "flops")
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "When a bound on what a sublayer can do to a difference of inputs is wanted."
    differs = "The start is a fitted linear map, not a random layer."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"slack": 1.0}, {"slack": 2.0}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        """slack: the bound, as a multiple of the linear map's norm; more leaves distillation more freedom."""
        x = view.inputs.double()
        matrix, constant = ridge(x, view.targets.double())
        left, size, right = torch.linalg.svd(matrix)
        gamma = settings["slack"] * max(float(size[0]), 1e-6)
        angle = torch.asin((size / gamma).clamp(max=1.0)) / 2
        q = torch.cat([angle.sin()[:, None] * left.T, angle.cos()[:, None] * right], dim=1)
        part = LipschitzFFN(view.site.d_model, view.site.d_model, gamma).to(view.device).double()
        part.weight.copy_(inverse_cayley(q))
        part.alpha.copy_(part.weight.norm())
        up, down = part.matrices()
        part.b.copy_(-(x @ up.T).amin(0).clamp(max=0.0))
        part.c.copy_(constant - down @ part.b)
        return view.as_replacement(part.float())
