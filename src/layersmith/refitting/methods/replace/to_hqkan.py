"""Turn a feed-forward into an HQKAN: the best linear map of low rank, and circuits for what it lacks in that subspace.

Paper: arXiv 2509.14026, "Quantum Variational Activation Functions Empower Kolmogorov-Arnold Networks". Reduced-rank
regression gives the maps down and up; the base term (identity) and the scales of circuits with random angles are
fitted by ridge regression, one output channel at a time.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.hqkan import HQKAN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import reduced_rank, ridge
from layersmith.refitting.view import SublayerView

#: Tokens that the circuits are fitted to: 2 * d_bottleneck numbers for each output channel.
JUDGED = 2048


class ToHQKAN(Method):
    name = "hqkan"
    kinds = ("ffn",)
    papers = ("2509.14026",)
    builds = ("hqkan",)
    default = False
    saves = ("params", "bytes", "flops")
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "It is far smaller than what it replaces, but hardly better than `rank_r` before distillation and slower, "
        "because its circuits are element-wise work; offered when asked for."
    )
    differs = "The start is a trained layer; the base activation is the identity, so that it contains rank_r."

    def options(self, view: SublayerView) -> list[Settings]:
        widths = dict.fromkeys(max(1, view.site.d_model // share) for share in (8, 16))
        return [{"d_bottleneck": width, "reps": 3} for width in widths]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        up, down, constant = reduced_rank(view.inputs, view.targets, settings["d_bottleneck"])
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(view.seed)
            part = HQKAN(view.site.d_model, base="identity", **settings)
            torch.nn.init.normal_(part.circuits.angles, std=1.0)
        part.to(view.device)
        h = view.inputs @ down.T
        size = h.std(0).clamp_min(1e-12)  # a circuit with weights 1 has its periods where inputs are of size 1
        h = h[:JUDGED] / size
        part.down.weight.copy_(down / size[:, None])
        part.down.bias.zero_()
        part.up.weight.copy_(up)
        part.up.bias.copy_(constant)
        wanted, phi = (view.targets[:JUDGED] - constant) @ up, part.circuits(h)
        for o in range(len(size)):
            weight, bias = ridge(torch.cat([h, phi[..., o]], 1), wanted[:, o : o + 1])
            part.base.weight[o], part.scale[:, o] = weight[0].split(len(size))
            part.base.bias[o] = bias[0]
        return view.as_replacement(part)
