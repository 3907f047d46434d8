"""Remove a run of blocks and fold one linear map in their place into the feed-forward before them.

Paper: ReplaceMe, arXiv 2505.02819. Blocks l+1 .. l+n are dropped. With s_l the stream before block l's feed-forward
is added and f_l that feed-forward's output, T is fitted so that s_l + T f_l matches what left block l+n, and is
merged into the feed-forward's own down projection: W_down <- T W_down. The result has n blocks less and nothing new,
so it stays a stock model. Also arXiv 2405.12250.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith import catalogue
from layersmith.anatomy import Site, replacement_for
from layersmith.anatomy.edit import Edit, Replacement
from layersmith.linear.dense import Dense
from layersmith.refitting.method import Method, Settings, weight_and_bias
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import Call, SublayerView

LENGTHS = (1, 2, 4)


class Span(Method):
    name = "span"
    kinds = ("ffn",)
    papers = ("2505.02819", "2405.12250")
    default = True
    saves = ("latency", "params", "bytes", "flops", "kv")
    requires = "a plain or gated feed-forward that adds last to the stream, and a block after it"
    statistics = ("stream",)
    when_it_pays = "Depth pruning of deep models without any training."
    differs = "T is found by ridge regression only (the paper also offers a cosine loss)."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        if view.ffn is None or "down" not in view.ffn.parts:
            return "it is not a plain or gated feed-forward"
        names = [s.name for s in view.anatomy.in_block(view.site.block)]
        after = names[names.index(view.site.name) + 1 :]
        if after or view.site.name + "_norm" not in names:
            return "its output is not what the block adds last to the stream, so nothing can be folded into it"
        return None if self.options(view) else "no block follows whose output was kept"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"blocks": n} for n in LENGTHS if n <= view.blocks_after]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        before, target = self._pairs(view, view.fit, settings["blocks"])
        transform, _ = ridge(before, target, strength=1e-3, bias=False)
        path = view.ffn.parts["down"]
        weight, bias = weight_and_bias(view.linears()[path])
        fold = transform.to(weight.dtype)
        down = Dense.from_weight(fold @ weight, None if bias is None else fold @ bias)
        replacement: Replacement = [(Edit(path, down.spec(), {}), down)]
        for site in self._dropped(view, settings["blocks"]):
            zero = catalogue.build({"name": "zero", "d_model": view.site.d_model}).to(view.device)
            replacement += replacement_for(view.model, site, zero)
        return replacement

    @torch.no_grad()
    def error(self, view: SublayerView, settings: Settings, replacement: Replacement) -> float:
        """Relative to what the feed-forward and the dropped blocks together add to the stream."""
        _, target = self._pairs(view, view.holdout, settings["blocks"])
        found = torch.cat(
            [c.real(o).float() for c, o in zip(view.holdout, view.run(replacement, view.holdout), strict=True)]
        )
        return float((found - target).square().sum() / target.square().sum().clamp_min(1e-30))

    def _pairs(self, view: SublayerView, calls: list[Call], blocks: int) -> tuple[Tensor, Tensor]:
        """f_l and what T f_l should be, (tokens, D) each."""
        outputs = [c.real(c.output).float() for c in calls]
        own = [c.real(h).float() for c, h in zip(calls, view.stream(calls, 1), strict=True)]
        later = [c.real(h).float() for c, h in zip(calls, view.stream(calls, 1 + blocks), strict=True)]
        targets = [end - (start - f) for f, start, end in zip(outputs, own, later, strict=True)]
        return torch.cat(outputs), torch.cat(targets)

    def _dropped(self, view: SublayerView, blocks: int) -> list[Site]:
        all_blocks = view.anatomy.of_kind("block")
        here = [s.name for s in all_blocks].index(view.site.block)
        return all_blocks[here + 1 : here + 1 + blocks]
