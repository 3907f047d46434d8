"""Turn a feed-forward into fast feedforward trees whose nodes are trained neurons, chosen greedily from the root down.

Paper: arXiv 2311.10770, "Exponentially Faster Language Modelling". Offered when asked for. At each node the trained
neuron is taken whose split of the node's tokens at its median leaves the targets most alike on either side; trees are
added on what is left, and all output rows are fitted together by ridge regression.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.fff import FFF
from layersmith.ffn.shared.tree import descend
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.least_squares import ridge
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView

#: Tokens looked at, neurons tried, and tokens that a node must see to split them once more.
TOKENS, CANDIDATES, ENOUGH = 4096, 256, 64


class ToFFF(Method):
    name = "fff"
    kinds = ("ffn",)
    papers = ("2311.10770",)
    builds = ("fff",)
    default = False
    saves = ("latency", "params", "bytes", "flops")
    requires = "a plain or gated feed-forward"
    statistics = ("inputs", "outputs")
    distils = True
    when_it_pays = (
        "In time nearly always (a token reads a few dozen neurons), in quality hardly ever: expect an error near that "
        "of a linear map, which the local error shows."
    )
    differs = "The start is a trained layer, not a random one; biases are moved to make the trees balanced."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return None if view.ffn else "it is not a plain or gated feed-forward"

    def options(self, view: SublayerView) -> list[Settings]:
        deepest = max(1, (min(TOKENS, len(view.inputs)) // ENOUGH).bit_length() - 1)
        return [{"depth": min(4, deepest), "n_trees": 8}, {"depth": min(5, deepest), "n_trees": 2}]

    @torch.no_grad()
    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense = view.ffn.operator
        x, residual = view.inputs[:TOKENS], view.targets[:TOKENS].clone()
        strength = hidden_activations(dense, x).square().mean(0) * dense.down.weight.float().square().sum(0)
        kept = strength.topk(min(CANDIDATES, len(strength))).indices
        neurons = (dense.gate if dense.name == "glu" else dense.up).weight[kept].float()
        answers = x @ neurons.T
        part = FFF(view.site.d_model, settings["depth"], settings["n_trees"], dense.spec()["act"]).to(view.device)
        for tree in range(part.n_trees):
            node = torch.zeros(len(x), dtype=torch.long, device=x.device)
            used = x.new_zeros(len(x), part.up.shape[1])
            for n in range(part.up.shape[1]):
                here = (node == n).nonzero()[:, 0]
                neuron, border = best_split(answers[here], residual[here])
                part.up[tree, n], part.bias[tree, n] = neurons[neuron], -border
                logit = answers[here, neuron] - border
                used[here, n] = part.act(logit)
                node[here] = 2 * n + 1 + (logit > 0)
            weight, _ = ridge(used, residual, bias=False)
            residual -= used @ weight.T
        logits, rows = descend(view.inputs, part.up, part.bias)
        used = x.new_zeros(len(view.inputs), part.bias.numel())
        used.scatter_(1, rows.flatten(1), part.act(logits).flatten(1))
        weight, _ = ridge(used, view.targets, bias=False)
        part.down.copy_(weight.T.view_as(part.down))
        return view.as_replacement(part.eval())


def best_split(answers: Tensor, targets: Tensor) -> tuple[int, float]:
    """Column of answers (n, C), and its median: the split there moves the means of targets (n, D) apart most."""
    if len(answers) < 2:
        return 0, 0.0
    border = answers.median(0).values
    right = (answers > border).float()
    n_right = right.sum(0).clamp(1, len(right) - 1)[:, None]
    n_left = len(right) - n_right
    sums = right.T @ targets
    apart = (sums / n_right - (targets.sum(0) - sums) / n_left).square().sum(1) * (n_left * n_right)[:, 0]
    best = int(apart.argmax())
    return best, float(border[best])
