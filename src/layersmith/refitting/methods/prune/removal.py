"""Remove what a model does without: whole sublayers first, then heads and groups of neurons of those that are left.

Each element is tried without, beside all that is gone, and stays away while the model is within a tolerance of the
original.

Paper: "AxFormer". The two levels, coarse before fine, and the tolerance are its abstract's and from memory; the order
within a level is not confirmed. Its sparse hard attention is the method `topk_retrieval`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.drop.drop import Drop
from layersmith.refitting.methods.prune.heads import Heads
from layersmith.refitting.methods.prune.rules import TOLERANCES, Harm, by_site, strongest_within
from layersmith.refitting.methods.prune.width import Width
from layersmith.refitting.view import SublayerView

if TYPE_CHECKING:
    from layersmith.refitting.candidate import Candidate

#: Shares of the neurons that may stay.
KEEPS = (0.75, 0.5, 0.25)
#: The setting that takes a whole sublayer out.
WHOLE = {"whole": True}


class Removal(Method):
    name = "removal"
    kinds = ("mixer", "ffn")
    papers = ("axformer-accuracy-driven-approximation-transformers",)
    missing = "top-k attention in the layers that it does good, which the method `topk_retrieval` has for all of them"
    builds = ("zero", "glu", "mlp", "softmax_attention")
    default = False
    ruled = "model"
    saves = ("latency", "params", "bytes", "flops", "kv")
    statistics = ("inputs", "grams")
    when_it_pays = "As the greedy baseline beside a searched mix of dropped, narrowed and thinned sublayers."
    differs = (
        "What stays of a sublayer is refitted (as `width` and `heads` do), and harm is the divergence from the model "
        "instead of a task's loss, so that nothing is removed because the task is better without it."
    )

    def options(self, view: SublayerView) -> list[Settings]:
        parts: list[Settings] = []
        if view.site.kind == "ffn" and view.ffn:
            parts = [{"keep": keep} for keep in KEEPS]
        elif view.site.kind == "mixer" and view.attention is not None:
            parts = Heads().options(view)
        return [*parts, dict(WHOLE)]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        if settings == WHOLE:
            return Drop().build(view, {})
        return Width().build(view, settings) if "keep" in settings else Heads().build(view, settings)

    def rungs(self, candidates: Sequence[Candidate], harm: Harm) -> Iterator[tuple[Settings, list[Candidate]]]:
        whole = by_site([c for c in candidates if c.settings == WHOLE], last_first=False)
        parts = by_site([c for c in candidates if c.settings != WHOLE], last_first=False)
        for tolerance in TOLERANCES:
            removed = strongest_within(whole, harm, tolerance)
            yield {"tolerance": tolerance}, strongest_within(parts, harm, tolerance, removed)
