"""Drop the sublayers that turn the residual stream least, many in one shot.

    S = 1 - mean over tokens of cos(x, x + f(x))         x the stream that a sublayer reads, f(x) what it adds

x is taken before the norm that stands in front of a sublayer, f(x) behind one that stands on its output (Gemma 3). The
lower S, the less a sublayer is held to matter; those with the lowest go, attention or feed-forwards, each with its
norm. Nothing else is measured: the baseline of `drop` goes by how far the model's outputs move without each.

Paper: arXiv 2406.15786, "What Matters in Transformers? Not All Attention is Needed", whose released code is LLM-Drop;
the score and the norms were confirmed there. Its rule for whole blocks is the method `shortgpt`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from layersmith.anatomy.edit import Replacement
from layersmith.anatomy.stream import NoSum
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
    missing = "the joint ranking of attention and feed-forwards"
    builds = ("zero",)
    default = False
    ruled = "kind"
    saves = ("latency", "params", "bytes", "flops", "kv")
    requires = "a block that runs once and gives the sum of what it was given and what its sublayers add"
    statistics = ("stream",)
    when_it_pays = "As the one-shot baseline beside measured drops: it needs no run of the model for each sublayer."
    differs = (
        "The released code is for norms in front of sublayers: here a norm of the output belongs to what is added "
        "(Gemma), a norm of the sum is left out of the score, as it stays (BERT), and sublayers side by side are each "
        "compared with the stream that both read (GPT-NeoX)."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        try:
            view.residual(view.fit[:1])
        except NoSum as why:
            return str(why)
        return None

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
    """S of the sublayer on the calls that methods may fit to; 0 where it adds nothing."""
    found = []
    for call, (read, added) in zip(view.fit, view.residual(view.fit), strict=True):
        before, written = call.real(read).double(), call.real(added).double()
        found.append(1 - F.cosine_similarity(before, before + written, dim=-1))
    return float(torch.cat(found).mean())
