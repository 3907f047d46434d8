"""Turn a feed-forward into a two-layer KAN: the trained weights in its base terms, some edge functions fitted.

A plain MLP is carried over exactly. From a gated feed-forward the start is the nearest plain MLP, and the edges that
leave its strongest hidden channels are fitted by ridge regression to what it lacks.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.kan import KAN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.kan_start import fit_edges, reach
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToKAN(Method):
    name = "kan"
    kinds = ("ffn",)
    builds = ("kan",)
    default = False
    saves = ()
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Never in cost, as it multiplies K + 1 times what the plain MLP does; it is offered when asked for, to see "
        "what functions on the edges are worth on a trained model, and to start distillation of a model whose edges "
        "can be looked at."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"basis": "b_spline", "size": 8}, {"basis": "fourier", "size": 8}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        hidden = mlp.up(view.inputs)
        interval = reach(view.inputs, hidden)
        kan = KAN.from_mlp(mlp, low=-interval, high=interval, **settings)
        if mlp is not view.ffn.operator:
            fit_edges(kan.down, hidden, view.targets - mlp.down(mlp.act(hidden)))
        return view.as_replacement(kan)
