"""Narrow feed-forwards by gradient scores, each as far as a tolerance lets it: its width is found by bisection.

    score_c = mean over tokens of |h_c dH/dh_c|,    H the entropy of the model's output

From the last feed-forward to the first, the highest-scored channels are kept, as few as possible while the model is no
more than a tolerance worse than it was before this one. Weights are cut out, not refitted.

Paper: arXiv 2603.08100, "Adaptive MLP Pruning". Confirmed in the authors' code (visresearch/AMP): the order of layers,
and the criterion of the bisection, which is that the loss is at most a tolerance above that of the model with all
layers done so far. The score is that of its sister for language models, arXiv 2603.08083 (visresearch/HFPrune).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.prune.rules import TOLERANCES, Harm, by_site, halved
from layersmith.refitting.methods.prune.width import KEEPS, sliced, strongest
from layersmith.refitting.view import SublayerView

if TYPE_CHECKING:
    from layersmith.refitting.candidate import Candidate


class AdaptiveWidth(Method):
    name = "adaptive_width"
    kinds = ("ffn",)
    papers = ("2603.08100",)
    builds = ("glu", "mlp")
    default = False
    ruled = "model"
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward in a model with logits"
    statistics = ("taylor",)
    when_it_pays = "As the baseline that a searched choice of widths has to beat."
    differs = (
        "Widths are eighths of the trained one, harm is the divergence from the original instead of the entropy, and "
        "magnitudes are taken of every token, where the released code takes that of the sum over an image."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.ffn:
            return "it is not a plain or gated feed-forward"
        if "taylor_size" not in view.statistics:
            return "no gradient statistics could be taken (the model's output has no distribution)"
        return None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"keep": keep} for keep in KEEPS]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        kept = strongest(view.statistics["taylor_size"], settings["keep"])
        return view.as_replacement(sliced(view.ffn.operator, kept))

    def rungs(self, candidates: Sequence[Candidate], harm: Harm) -> Iterator[tuple[Settings, list[Candidate]]]:
        places = by_site(candidates, last_first=True)
        for tolerance in TOLERANCES:
            yield {"tolerance": tolerance}, halved(places, harm, tolerance)
