"""Turn a gated feed-forward into nested ones: its channels in the order in which they matter, run at a chosen width.

Paper: "MatFormer: Nested Transformer for Elastic Inference", arXiv 2310.07707, which trains the nesting from scratch.
It runs when asked for by name. A channel's score is that of the method `width`; no weight is refitted, since the
channels are those of every wider feed-forward too, and none is thrown away.
"""

from __future__ import annotations

from typing import ClassVar

import torch

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.nested_glu import NestedGLU
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.prune.width import hidden_gram
from layersmith.refitting.view import SublayerView

SHARES = (1.0, 0.75, 0.5, 0.25)


class ToNestedGLU(Method):
    name = "nested_glu"
    kinds = ("ffn",)
    papers: ClassVar[tuple[str, ...]] = ("matformer-nested-transformer-elastic-inference",)
    missing = "the training of all widths together, without which narrow ones lose much"
    builds = ("nested_glu",)
    default = False
    saves = ("flops",)
    requires = "a gated feed-forward"
    statistics: ClassVar[tuple[str, ...]] = ("inputs",)
    when_it_pays = "When one stored model shall run at several widths; where one width is enough, `width` is better."
    differs = "A trained start; channels are ordered by importance and not trained to be nested."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn and view.ffn.operator.name == "glu" else "it is not a gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"share": share} for share in SHARES]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        glu = view.ffn.operator
        score = hidden_gram(view).diagonal().sqrt() * glu.down.weight.norm(dim=0)
        order = score.argsort(descending=True)
        width = max(1, round(settings["share"] * len(order)))
        spec = glu.spec()
        part = NestedGLU(spec["d_model"], spec["d_hidden"], width=width, act=spec["act"], bias=spec["bias"])
        part.to(view.device)
        for name in ("gate", "up"):
            ours, theirs = getattr(part, name), getattr(glu, name)
            ours.load_state_dict({key: tensor[order] for key, tensor in theirs.state_dict().items()})
        part.down.load_state_dict(glu.down.state_dict() | {"weight": glu.down.weight[:, order]})
        return view.as_replacement(part.eval())
