"""Turn a feed-forward into a cascade of small MLPs over chunks of the channels.

Paper: arXiv 2511.14111, "CascadedViT". Chunk by chunk, the trained input weights that lie within the chunk are
carried over, and the output map is fitted by ridge regression to the chunk's outputs, on what the chunks before
really pass on.
"""

from __future__ import annotations

from typing import Any

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.cascaded_ffn import CascadedFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import fit_linear
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.view import SublayerView


class ToCascadedFFN(Method):
    name = "cascaded_ffn"
    kinds = ("ffn",)
    papers = ("2511.14111",)
    builds = ("cascaded_ffn",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward of even widths"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "It has 1 / chunks of an MLP's parameters, but each chunk sees few of the channels a trained layer reads, so "
        "it is a start for further training; it runs when asked for by name."
    )
    differs = "A trained start."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.ffn:
            return "it is not a plain or gated feed-forward"
        widths = (view.site.d_model, view.ffn.operator.down.in_features)
        return f"its widths {widths} are not even" if any(w % 2 for w in widths) else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"chunks": 2}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        mlp, chunks = nearest_mlp(view), settings["chunks"]
        config = mlp.spec()
        part = CascadedFFN(config["d_model"], config["d_hidden"], chunks, config["act"]).to(view.device)
        weights, before = mlp.up.weight.chunk(chunks, dim=0), view.inputs.new_zeros(())
        bias = mlp.up.weight.new_zeros(config["d_hidden"]) if mlp.up.bias is None else mlp.up.bias
        parts: Any = part.parts
        for i, small in enumerate(parts):
            small.up.weight.copy_(weights[i].chunk(chunks, dim=1)[i])
            small.up.bias.copy_(bias.chunk(chunks)[i])
            u = view.inputs.chunk(chunks, dim=-1)[i] + before
            fit_linear(small.down, small.act(small.up(u)), view.targets.chunk(chunks, dim=-1)[i])
            before = small(u)
        return view.as_replacement(part)
