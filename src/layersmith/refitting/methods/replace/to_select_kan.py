"""Turn a feed-forward into an S-KAN in which each channel has chosen one basis out of a pool, by least squares.

Paper: arXiv 2408.08338, "Activation Space Selectable Kolmogorov-Arnold Networks". As for `kan`, the trained weights
stand in the base terms and a plain MLP is carried over exactly; from a gated feed-forward the edges of the strongest
hidden channels are fitted, with every basis of the pool at once, then reduced to one basis per channel.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.select_kan import SelectKAN
from layersmith.ffn.shared.kan_layer import carry_base
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.replace.kan_start import fit_edges, reach
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView

#: Tokens that a choice is judged on: its covariances are of 18 functions for each channel.
JUDGED = 512


class ToSelectKAN(Method):
    name = "select_kan"
    kinds = ("ffn",)
    papers = ("2408.08338",)
    builds = ("select_kan",)
    default = False
    saves = ()
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "Never in cost; it shows which kind of function a trained channel wants."
    differs = "The start is a trained layer, and selection follows a closed-form fit instead of training."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"size": 6}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp = nearest_mlp(view)
        hidden = mlp.up(view.inputs)
        interval = reach(view.inputs, hidden)
        config = {"low": -interval, "high": interval, "base_in": "identity", "base": mlp.spec()["act"], **settings}
        part = SelectKAN(view.site.d_model, mlp.up.out_features, **config).to(view.device)
        carry_base(part.up, part.down, mlp)
        part.down.alpha.fill_(1.0)
        if mlp is not view.ffn.operator:
            fit_edges(part.down, hidden, view.targets - mlp.down(mlp.act(hidden)))
        part.up.select(view.inputs[:1], keep=1)  # has no functions besides the base terms yet: nothing to judge
        part.down.select(hidden[:JUDGED], keep=1)
        return view.as_replacement(part.prune())
