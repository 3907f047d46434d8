"""Turn a feed-forward into a linear map plus continued fractions along its trained directions.

Paper: arXiv 2601.21766, "CoFrGeNet". Ladders of two equal levels give a / (1 + a^2), the one continued fraction
without poles: each takes the direction of a trained row (of the gate, in a gated feed-forward), scaled to unit
spread. Then U and V are fitted together by ridge regression. It has far fewer parameters than the feed-forward, but
on pocket it is only a few hundredths closer than a linear map is, and narrowing (`width`) is better at equal size; it
runs only when asked for.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.cofrgenet import CoFrGeNet
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import SublayerView


class ToCoFrGeNet(Method):
    name = "cofrgenet"
    kinds = ("ffn",)
    papers = ("2601.21766",)
    builds = ("cofrgenet",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Seldom: it has far fewer parameters than the feed-forward, but narrowing (`width`) is better at equal size."
    )
    differs = "The start is a trained layer, not a random one; the gate starts open by one half everywhere."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        hidden = view.ffn.operator.down.in_features
        return [{"ladders": max(1, hidden // 2)}, {"ladders": max(1, hidden // 16)}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, d_model = view.ffn.operator, view.inputs, view.site.d_model
        rows = dense.gate.weight if dense.name == "glu" else dense.up.weight
        strongest = (rows.norm(dim=1) * dense.down.weight.norm(dim=0)).topk(settings["ladders"]).indices
        rows = rows[strongest]
        rows = rows / (x @ rows.T).std(0).clamp_min(1e-6)[:, None]
        part = CoFrGeNet(d_model, settings["ladders"], depth=2).to(view.device)
        part.gate.weight.zero_()
        for level in part.w:
            level.copy_(2 * rows)  # the gate halves what they see
        weight, _ = ridge(torch.cat([x, part.fractions(x)], dim=1), view.targets, strength=1e-4, bias=False)
        part.linear.weight.copy_(weight[:, :d_model])
        part.v.copy_(weight[:, d_model:])
        return view.as_replacement(part)
