"""Turn a feed-forward into an AF-KAN: features reduced to near the trained activations, dense maps fitted to the rest.

Paper: arXiv 2503.06112, "AF-KAN". In each layer the mixing weights are fitted so that the reduced inputs follow the
inputs, then the dense map by ridge regression: first to the hidden layer of the nearest plain MLP, then to the
sublayer's outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.af_kan import AFKAN, AFLayer
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear, ridge
from layersmith.refitting.methods.replace.kan_start import reach
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView

#: Tokens for the fit of the few mixing weights; every channel of a token counts as one example.
JUDGED = 512


class ToAFKAN(Method):
    name = "af_kan"
    kinds = ("ffn",)
    papers = ("2503.06112",)
    builds = ("af_kan",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "From a gated feed-forward it drops one of three matrices, but its features cost more time than that saves; "
        "it is offered when asked for, to see what the form is worth on a trained model."
    )
    differs = "The start is a trained layer, with the linear reduction and the grid over the activations."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"combine": "prod"}, {"combine": "quad1"}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        hidden, interval = mlp.up(view.inputs), reach(view.inputs)
        config = {"reduce": "linear", "low": -interval, "high": interval, **settings}
        part = AFKAN(view.site.d_model, mlp.up.out_features, **config).to(view.device)
        _fit(part.up, view.inputs, hidden)
        _fit(part.down, part.up(view.inputs), view.targets)
        return view.as_replacement(part)


def _fit(layer: AFLayer, x: Tensor, y: Tensor) -> None:
    """Mixing weights that bring the reduced inputs near x, then the dense map that predicts y."""
    few = x[:JUDGED]
    weight, _ = ridge(layer.features(few).flatten(0, 1), few.flatten()[:, None], strength=1e-6)
    layer.mix.copy_(weight[0])
    fit_linear(layer.linear, layer.hidden(x), y)
