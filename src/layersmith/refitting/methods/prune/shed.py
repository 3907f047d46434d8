"""Remove blocks or sublayers one after the other, each time the one without which the rest of the model does best.

At every step each component that is left is tried without, beside all that is gone, and the one that does least
harm goes for good. In a searched mix `drop` may choose freely among sites, and the baseline of `drop` goes by
single scores; this is the greedy rule between the two.

Paper: "Mamba-Shedder". The loop was confirmed in the authors' code (Mamba-Shedder/prune.py in IntelLabs'
Hardware-Aware-Automated-Machine-Learning): one kind of component at a time, the lowest perplexity on a text decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from layersmith.refitting.method import Settings
from layersmith.refitting.methods.drop.drop import Drop
from layersmith.refitting.methods.prune.rules import Harm, one_by_one

if TYPE_CHECKING:
    from layersmith.refitting.candidate import Candidate


class Shed(Drop):
    name = "shed"
    kinds = ("block", "mixer", "ffn")
    papers = ("mamba-shedder",)
    missing = "the removal of a state space alone, which keeps the convolution and the gate of its layer"
    builds = ("zero",)
    default = False
    ruled = "kind"
    saves = ("latency", "params", "bytes", "flops", "kv")
    when_it_pays = "As the greedy baseline beside a searched mix, at any model whose blocks have a residual stream."
    differs = "Harm is the divergence from the original model instead of the perplexity of a text."

    def rungs(self, candidates: Sequence[Candidate], harm: Harm) -> Iterator[tuple[Settings, list[Candidate]]]:
        for mix in one_by_one(candidates, harm):
            yield {"sites": len(mix)}, mix
