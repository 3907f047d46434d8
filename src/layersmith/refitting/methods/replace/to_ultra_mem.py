"""Turn a feed-forward into an UltraMem that scores its slots as the trained hidden neurons would fire.

Paper: arXiv 2411.12364, "Ultra-Sparse Memory Network". The start is that of the method `pkm`: half keys are clustered
gate directions; row and column scores (s_i, 1) and (s_j, 1) under the core [[e, 1], [1, e]] add up to s_i + s_j and
keep the filter's singular vectors positive. The values are fitted by ridge regression.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.ultra_mem import UltraMem
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.clustering import kmeans
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.methods.replace.neuron_keys import features, neuron_keys, side
from layersmith.refitting.view import SublayerView

#: Large enough that both singular vectors are clearly positive, small beside the sum of the scores.
CORNER = 0.01


class ToUltraMem(Method):
    name = "ultra_mem"
    kinds = ("ffn",)
    papers = ("2411.12364",)
    builds = ("ultra_mem",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "As a start for training with a memory that can grow, so it is offered only when asked for."
    differs = "The start is a trained layer; one core, no expansion, relu scores, no norms."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"share": 0.5}, {"share": 0.125}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp, x, d_model = nearest_mlp(view), view.inputs, view.site.d_model
        keys = neuron_keys(mlp, x, x.new_ones(mlp.up.out_features))
        n_keys, half = side(mlp.up.out_features), keys.first.shape[1]
        k = max(1, round(settings["share"] * n_keys**2))
        memory = UltraMem(d_model, n_keys, k, half, cores=1, expansion=1, act="relu", normalise=False, aux_weight=0.0)
        memory.to(view.device)
        memory.query.weight.copy_(keys.query)
        memory.query.bias.copy_(keys.bias)
        memory.keys.zero_()
        memory.keys[0, 0] = kmeans(keys.first, n_keys, seed=view.seed)
        memory.keys[1, 0] = kmeans(keys.second, n_keys, seed=view.seed)
        memory.keys[:, 1, :, -1] = 1.0  # the queries end in a 1
        memory.core.copy_(torch.tensor([[[CORNER, 1.0], [1.0, CORNER]]]))
        scores, slots = memory.retrieve(x)
        _, value = memory.place(slots)
        weight, _ = ridge(features(value, scores[..., 0].relu(), n_keys**2), view.targets, bias=False)
        memory.values.copy_(weight.T)
        memory.down.weight.copy_(torch.eye(d_model, device=view.device))
        return view.as_replacement(memory)
