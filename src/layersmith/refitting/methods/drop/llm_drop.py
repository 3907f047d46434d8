"""Drop the sublayers that turn the residual stream least, many in one shot.

    S = 1 - mean over tokens of cos(x, x + f(x))         x the stream before a sublayer, f(x) what it adds

The lower S, the less a sublayer is held to matter; those with the lowest go, attention or feed-forwards, each with its
norm. Nothing else is measured: the baseline of `drop` goes by how far the model's outputs move without each.

Paper: arXiv 2406.15786, "What Matters in Transformers? Not All Attention is Needed", whose released code is LLM-Drop;
the score and the norms were confirmed there.
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


class LLMDrop(Drop):
    name = "llm_drop"
    kinds = ("ffn", "mixer")
    papers = ("2406.15786",)
    missing = "the joint ranking of attention and feed-forwards, and whole blocks"
    builds = ("zero",)
    default = False
    ruled = "kind"
    saves = ("latency", "params", "bytes", "flops", "kv")
    requires = "blocks that can be run alone; of the last one, attention only"
    statistics = ("stream",)
    when_it_pays = "As the one-shot baseline beside measured drops: it needs no run of the model for each sublayer."
    differs = (
        "The stream between the two sublayers is what leaves the block less what the feed-forward gives, which is so "
        "where norms stand in front of sublayers, as in the models of the paper; behind a norm of the output (Gemma 3, "
        "BERT) or beside a parallel attention the score is of another sum."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if not view.streams:
            return "the model's blocks cannot be run alone, so the stream between them was not kept"
        return "what leaves the last block was not kept" if view.site.kind == "ffn" and view.streams < 2 else None

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"importance": float(f"{importance(view):.6g}")}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        return super().build(view, {})

    def rungs(self, candidates: Sequence[Candidate], harm: Harm) -> Iterator[tuple[Settings, list[Candidate]]]:
        """The sublayer of least importance, the two of least importance, ..."""
        ordered = sorted(candidates, key=lambda each: each.settings["importance"])
        for count in range(1, len(ordered) + 1):
            yield {"sites": count}, ordered[:count]


@torch.no_grad()
def importance(view: SublayerView) -> float:
    """S of the sublayer on the calls that methods may fit to; 0 where it adds nothing.

    Attention stands first in its block, so it reads what enters the block; a feed-forward last, so what leaves the
    block is what it has left.
    """
    found = []
    for call, stream in zip(view.fit, view.stream(view.fit, int(view.site.kind == "ffn")), strict=True):
        added, stream = call.real(call.output), call.real(stream.float())
        before, after = (stream - added, stream) if view.site.kind == "ffn" else (stream, stream + added)
        found.append(1 - F.cosine_similarity(before.double(), after.double(), dim=-1))
    return float(torch.cat(found).mean())
