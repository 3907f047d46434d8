"""Turn a feed-forward into a product-key memory that scores its slots as the trained hidden neurons would fire.

Papers: arXiv 2310.10837's product-key memory with relu weights (Lample et al. 2019, arXiv 1907.05242). The trained gate
directions are cut in halves in the space of their principal responses and clustered: slot (a, b) fires like a neuron
with the half keys a and b. The values are fitted by ridge regression.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.pkm import PKM
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.methods.replace.neuron_keys import d_key_of, features, neuron_keys, set_search, side
from layersmith.refitting.view import SublayerView


class ToPKM(Method):
    name = "pkm"
    kinds = ("ffn",)
    papers = ("1907.05242", "2310.10837")
    builds = ("pkm",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "As a start for training with a memory that can grow; it has as many values as the layer had neurons and no "
        "activation of x beyond relu, so it is offered only when asked for."
    )
    differs = "The start is a trained layer; one head, whose queries are not normalised."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"share": 0.5}, {"share": 0.125}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp, x = nearest_mlp(view), view.inputs
        keys = neuron_keys(mlp, x, x.new_ones(mlp.up.out_features))
        n_keys = side(mlp.up.out_features)
        k = max(1, round(settings["share"] * n_keys**2))
        pkm = PKM(view.site.d_model, n_keys, k=k, weights="relu", **d_key_of(keys)).to(view.device)
        set_search(pkm.search, keys, n_keys, view.seed)
        scores, slots = pkm.search(x)
        weight, _ = ridge(features(slots[:, 0], scores[:, 0].relu(), n_keys**2), view.targets, bias=False)
        pkm.values.copy_(weight.T)
        return view.as_replacement(pkm)
