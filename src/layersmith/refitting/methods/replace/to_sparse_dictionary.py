"""Turn a feed-forward into a transcoder: its hidden neurons are the features, of which the k strongest count.

Paper: arXiv 2406.11944, "Transcoders Find Interpretable LLM Feature Circuits". The encoder is the layer's own first map
(the gate of a gated one), the decoder is fitted to the outputs by ridge regression, with or without a linear path
beside it, and then both are distilled. A plain ReLU layer with all its neurons allowed is reproduced. `layersmith
explain` trains wider dictionaries, to be read; here it is a replacement like any other.
"""

from __future__ import annotations

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.sparse_dictionary import SparseDictionary
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import SublayerView


class ToSparseDictionary(Method):
    name = "transcoder"
    kinds = ("ffn",)
    papers = ("2406.11944",)
    builds = ("sparse_dictionary",)
    default = False
    saves = ("params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = "Where few of the layer's neurons matter for a token, and to see how much of the layer those carry."
    differs = "The features are the layer's own neurons, not many more that are trained from scratch."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return "it is not a plain or gated feed-forward" if view.ffn is None else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"active": 0.25, "skip": True}, {"active": 0.25, "skip": False}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x = view.ffn.operator, view.inputs
        first = dense.up if dense.name == "mlp" else dense.gate
        features = first.out_features
        k = max(1, round(settings["active"] * features))
        part = SparseDictionary(view.site.d_model, features, k, skip=settings["skip"]).to(view.device)
        part.encoder.weight.copy_(first.weight)
        part.encoder.bias.copy_(torch.zeros_like(part.encoder.bias) if first.bias is None else first.bias)
        codes = part.codes(x)
        read = torch.cat([codes, x], 1) if settings["skip"] else codes
        weight, bias = ridge(read, view.targets)
        part.decoder.copy_(weight[:, :features].T)
        if part.skip is not None:
            part.skip.copy_(weight[:, features:])
        part.bias.copy_(bias)
        return view.as_replacement(part)
