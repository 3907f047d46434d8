"""Turn a gated feed-forward into a Spark-FFN: only channels whose gate exceeds a statistical threshold are computed.

Paper: arXiv 2506.06644, "Spark Transformer". Unsplit, the weights are the trained ones and the gate is still dense
(at best 1/3 of the cost remains). Split, half of the input predicts the gate and the other half the values, both by
ridge regression on the trained pre-activations, and the output map is refitted: that saves a third of the parameters
and loses most of the quality until it is trained further. It runs when asked for by name.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.spark_ffn import SparkFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear, ridge
from layersmith.refitting.methods.prune.topk import gated_without_bias
from layersmith.refitting.view import SublayerView


class ToSparkFFN(Method):
    name = "spark_ffn"
    kinds = ("ffn",)
    papers = ("2506.06644",)
    builds = ("spark_ffn",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a gated feed-forward without biases"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "Decoding one token at a time through a wide layer that keeps few of its channels; measured, not before "
        "`topk` does, and in narrow layers its many small steps make it several times slower."
    )
    differs = "A trained start, and so the hard threshold, which leaves trained gates as they are."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return gated_without_bias(view)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": 0.5, "split": False}, {"keep": 0.2, "split": False}, {"keep": 0.2, "split": True}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        glu = view.ffn.operator
        d_model, d_hidden = view.site.d_model, glu.down.in_features
        k = max(1, round(settings["keep"] * d_hidden))
        if not settings["split"]:
            return view.as_replacement(SparkFFN.from_glu(glu, k))
        r = d_model // 2
        part = SparkFFN(d_model, d_hidden, k, r, glu.spec()["act"], soft=False).to(view.device)
        x = view.inputs
        seen, rest = x[:, :r], x[:, r:]
        fit_linear(part.predictor, seen, glu.gate(x))
        fit_linear(part.value, rest, glu.up(x))
        gate, keep = part.gate(seen)
        weight, _ = ridge(torch.where(keep, gate * part.value(rest), 0), view.targets, bias=False)
        part.out.copy_(weight.T)
        return view.as_replacement(part)
