"""Drop the blocks that change the residual stream's direction least, many in one shot.

    BI = 1 - mean over tokens of cos(x, y)               x what enters a block, y what leaves it

The lower this block influence, the less a block is held to matter; those with the lowest go, attention and feed-forward
together. Nothing else is measured: the baseline of `drop` goes by how far the model's outputs move without each block.

Paper: arXiv 2403.03853, "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect"; score and order
were confirmed in the released code. Whole blocks are dropped by the same score in arXiv 2406.15786, whose rule for
single sublayers is the method `llm_drop`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from layersmith.anatomy.edit import Replacement
from layersmith.refitting.method import Settings
from layersmith.refitting.methods.drop.drop import Drop
from layersmith.refitting.methods.prune.rules import Harm
from layersmith.refitting.view import SublayerView

if TYPE_CHECKING:
    from layersmith.refitting.candidate import Candidate


class ShortGPT(Drop):
    name = "shortgpt"
    kinds = ("block",)
    papers = ("2403.03853", "2406.15786")
    missing = "the variant for generation, in which blocks are left out for the prompt and run for each token written"
    builds = ("zero",)
    default = False
    ruled = "kind"
    saves = ("latency", "params", "bytes", "flops", "kv")
    statistics = ("inputs", "outputs")
    when_it_pays = "As the one-shot baseline of depth pruning: it needs no run of the model for each block."
    differs = "What leaves the last block is compared as it is, where the released code takes it behind the final norm."

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"influence": float(f"{influence(view):.6g}")}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return super().build(view, {})

    def rungs(self, candidates: Sequence[Candidate], harm: Harm) -> Iterator[tuple[Settings, list[Candidate]]]:
        """The block of least influence, the two of least influence, ..."""
        ordered = sorted(candidates, key=lambda each: each.settings["influence"])
        for count in range(1, len(ordered) + 1):
            yield {"sites": count}, ordered[:count]


@torch.no_grad()
def influence(view: SublayerView) -> float:
    """BI of the block on the calls that methods may fit to; 0 where it changes no direction."""
    return float((1 - F.cosine_similarity(view.inputs.double(), view.outputs.double(), dim=-1)).mean())
