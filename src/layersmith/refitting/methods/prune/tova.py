"""Limit the cache of a trained attention: what the newest token attends to least is dropped.

Paper: "Transformers are Multi-State RNNs", arXiv 2401.06104.
"""

from __future__ import annotations

from layersmith import catalogue
from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.limits import SHARES, cache_reason, shared_config, text_length
from layersmith.refitting.view import SublayerView

#: Tokens between two choices.
CHUNK = 16


class ToTOVA(Method):
    name = "tova"
    kinds = ("mixer",)
    papers = ("2401.06104",)
    builds = ("tova",)
    default = False
    saves = ("kv", "flops")
    forgets = True
    requires = "causal softmax attention of a known form without a window"
    distils = True
    when_it_pays = (
        "Decoding after long texts in layers that keep looking at a few tokens, wherever these stand; a text is worked "
        "off step by step, so it is not tried unless it is named."
    )
    differs = "Tokens are dropped after every sixteenth one, in prompts as in what is written."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if reason := cache_reason(view):
            return reason
        return "it has a window already" if view.attention.operator.window is not None else None

    def options(self, view: SublayerView) -> list[Settings]:
        """A half, a quarter and an eighth of a text stay, in whole chunks."""
        length = text_length(view)
        chunk = max(1, min(CHUNK, int(length * SHARES[-1])))
        return [{"keep": max(1, int(length * share) // chunk) * chunk, "chunk": chunk} for share in SHARES]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        full = view.attention.operator
        config = {k: v for k, v in shared_config(full).items() if k != "causal"}
        part = catalogue.build({"name": "tova", **config, **settings}).to(view.device)
        part.load_state_dict(full.state_dict())
        return view.as_replacement(part)
