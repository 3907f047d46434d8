"""MoEfication: a feed-forward's neurons in groups, and a small network that predicts which groups will be active.

Paper: arXiv 2110.01786. Groups are balanced k-means clusters of the neurons' keys, or a balanced partition of the graph
of neurons that are active together; the gate is an MLP fitted to each group's sum of positive activations. The weights
stay as they are, so with all groups it is the original.
"""

from __future__ import annotations

import torch
from torch import Tensor

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.split_ffn import SplitFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.experts.gates import fit_mlp, needed_by_activation
from layersmith.refitting.methods.experts.partitions import by_keys, by_together, keys_of
from layersmith.refitting.methods.experts.refusals import refuses_split
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView

EXPERTS = 8
#: Share of a token's neurons that count as active where the activation has no zeros.
ACTIVE = 0.1
#: Activations whose zeros say which neurons are active.
ZEROS = ("relu", "relu2")


class MoEfication(Method):
    name = "moefication"
    kinds = ("ffn",)
    papers = ("2110.01786",)
    builds = ("split_ffn",)
    default = False
    saves = ("flops",)
    requires = "a plain or gated feed-forward whose hidden channels divide into the experts"
    statistics = ("inputs",)
    distils = True
    when_it_pays = (
        "For layers whose neurons are mostly idle, as ReLU leaves them; under SiLU or GELU every group carries some of "
        "the output and `width` at the same cost is usually closer."
    )
    differs = (
        "Layers without ReLU are split too: there the strongest tenth of the neurons counts as active; an edge of the "
        "graph counts tokens, where the paper adds up products of the two activations, and the graph is partitioned "
        "by exchanges instead of METIS; the gate learns sums for the inputs as they are, not for inputs of length 1."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return refuses_split(view, EXPERTS)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"split": split, "k": k} for k in (4, 2) for split in ("keys", "together")]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x = view.ffn.operator, view.inputs
        hidden = hidden_activations(dense, x)
        if settings["split"] == "keys":
            groups = view.once("groups by keys", lambda: by_keys(keys_of(dense), EXPERTS))
        else:
            edges = active_together(hidden, dense.spec()["act"])
            groups = view.once("groups of the graph", lambda: by_together(edges, EXPERTS))
        part = SplitFFN.from_dense(dense, groups, settings["k"], "mlp")
        fit_mlp(part, x, needed_by_activation(hidden, groups))
        return view.as_replacement(part.eval())


def active_together(hidden: Tensor, act: str) -> Tensor:
    """(neurons, neurons): at how many tokens both are active, from hidden activations (tokens, neurons)."""
    if act in ZEROS:
        active = (hidden > 0).float()
    else:
        strongest = hidden.abs().topk(max(1, int(ACTIVE * hidden.shape[1])), dim=1).indices
        active = torch.zeros_like(hidden).scatter(1, strongest, 1.0)
    return active.T @ active
