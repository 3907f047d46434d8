"""Turn a feed-forward into Pattention: the trained rows become keys, and the values are fitted.

Paper: arXiv 2410.23168, "TokenFormer". Keys are the rows of the up projection (of the gate, in a gated feed-forward),
tau the mean length of the scores over the calibration tokens, so that a typical token is not rescaled; then the
values are fitted by ridge regression. Biases of the first map are lost. For SiLU, gelu(z) is close to silu(1.702 z) /
1.702, hence the factor in tau. From a GELU or ReLU feed-forward without biases it comes close; from a gated one it
loses the product with the second branch, and narrowing (`width`) is far better at equal size, so it runs only when
asked for.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.pattention import Pattention
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import SublayerView

#: How much of a trained score GELU should see, by activation: silu(z) = z sigmoid(z), gelu(z) ~ z sigmoid(1.702 z).
SHARE = {"silu": 1 / 1.702}


class ToPattention(Method):
    name = "pattention"
    kinds = ("ffn",)
    papers = ("2410.23168",)
    builds = ("pattention",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "To get a feed-forward that can grow (`grown`)."
    differs = "The start is a trained layer, not a random one."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"theta": "l2_norm_gelu"}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense = view.ffn.operator
        rows = dense.gate.weight if dense.name == "glu" else dense.up.weight
        length = float((view.inputs @ rows.T).norm(dim=-1).mean())
        tau = length * SHARE.get(dense.spec()["act"], 1.0)
        part = Pattention(view.site.d_model, len(rows), settings["theta"], max(tau, 1e-6)).to(view.device)
        part.keys.copy_(rows)
        values, _ = ridge(part._scores(view.inputs @ rows.T), view.targets, bias=False)
        part.values.copy_(values.T)
        return view.as_replacement(part)
