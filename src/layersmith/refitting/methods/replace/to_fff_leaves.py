"""Turn a feed-forward into a tree with leaves: tokens split by hyperplanes, each region with the neurons it needs.

Paper: arXiv 2405.16836, "Enhancing Fast Feed Forward Networks". Offered when asked for. A node's hyperplane predicts,
linearly from the input, the first principal direction of its tokens' targets, cut at the median; a leaf keeps the
neurons that are strongest in its region, with the output map refitted there by ridge regression.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.fff_leaves import FFFLeaves
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.view import SublayerView

#: Standard deviation of the nodes' logits: most decisions are clear, so that training (soft) starts near use (hard).
CLEAR = 4.0


class ToFFFLeaves(Method):
    name = "fff_leaves"
    kinds = ("ffn",)
    papers = ("2405.16836",)
    builds = ("fff_leaves",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "In time with few tokens at once, because a token uses a quarter of the neurons; the local error shows what "
        "that costs."
    )
    differs = "The start is a trained layer, not a random one; no master leaf."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"depth": 1, "keep": 0.5}, {"depth": 2, "keep": 0.25}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, targets = view.ffn.operator, view.inputs, view.targets
        first = dense.gate if dense.name == "glu" else dense.up
        d_hidden = first.out_features
        d_leaf = min(d_hidden, max(8, round(settings["keep"] * d_hidden / 8) * 8))
        part = FFFLeaves(view.site.d_model, settings["depth"], d_leaf, master_width=0, act=dense.spec()["act"])
        part.to(view.device)
        up, up_bias = first.weight, x.new_zeros(d_hidden) if first.bias is None else first.bias
        hidden = part.act(x @ up.T + up_bias)
        node = torch.zeros(len(x), dtype=torch.long, device=x.device)
        if part.node is not None and part.node_bias is not None:
            for n in range(part.n_leaves - 1):
                here = (node == n).nonzero()[:, 0]
                part.node[n], part.node_bias[n] = hyperplane(x[here], targets[here])
                node[here] = 2 * n + 1 + (x[here] @ part.node[n] + part.node_bias[n] > 0)
        for leaf in range(part.n_leaves):
            here = (node == leaf + part.n_leaves - 1).nonzero()[:, 0]
            score = hidden[here].square().mean(0) * dense.down.weight.float().square().sum(0)
            kept = score.topk(d_leaf).indices.sort().values
            part.up[leaf], part.up_bias[leaf] = up[kept], up_bias[kept]
            part.down[leaf], part.down_bias[leaf] = ridge(hidden[here][:, kept], targets[here])
        return view.as_replacement(part.eval())


def hyperplane(x: Tensor, targets: Tensor) -> tuple[Tensor, float]:
    """The node that splits these tokens in half along what is most different between their targets."""
    _, _, directions = torch.pca_lowrank(targets, q=1, niter=4)
    weight, _ = ridge(x, targets @ directions, strength=1e-2)
    logit = x @ weight[0]
    scale = CLEAR / logit.std().clamp_min(1e-12)
    return weight[0] * scale, float(-logit.median() * scale)
