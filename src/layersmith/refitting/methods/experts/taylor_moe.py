"""Neurons that the answer depends on most are shared by all tokens, the others stand in groups under a router.

Paper: "Dense2MoE". A neuron's importance is first-order Taylor: |mean of activation x gradient|. The most important
neurons run for every token; the others are dealt out to equal experts under a router, which distillation trains on with
a balancing loss. With all experts it is the original.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.split_ffn import SplitFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.experts.gates import fit_linear, needed_by_activation
from layersmith.refitting.methods.experts.partitions import random, split
from layersmith.refitting.methods.experts.refusals import refuses_split
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView

#: Groups in all; what stays on of them at k = 1, with two shared, are 37.5%, as in the paper.
GROUPS = 8
BALANCE = 0.01


class TaylorMoE(Method):
    name = "taylor_moe"
    kinds = ("ffn",)
    papers = ("dense2moe-restructuring-diffusion-transformer-moe",)
    missing = (
        "mixtures of whole blocks, its losses on features of groups of blocks, and a loss that balances in a refit"
    )
    builds = ("split_ffn",)
    default = False
    saves = ("flops",)
    requires = "a plain or gated feed-forward in a model with logits, whose hidden channels divide into the experts"
    statistics = ("inputs", "taylor")
    distils = True
    when_it_pays = "Where a few neurons matter to every token; beside `carve`, which shares those most often active."
    differs = (
        "Gradients are those of the entropy of the model's answer, not of a diffusion loss, and the rest is dealt out "
        "at random."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        reason = refuses_split(view, GROUPS)
        if reason is None and "taylor" not in view.statistics:
            return "no gradient statistics could be taken (the model's output has no distribution)"
        return reason

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"shared": 2, "k": 2}, {"shared": 2, "k": 1}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, n_experts = view.ffn.operator, view.inputs, GROUPS - settings["shared"]
        shared, rest = split(view.statistics["taylor"].abs(), settings["shared"], n_experts)
        groups = rest[random(len(rest), n_experts, view.seed, view.device)]
        part = SplitFFN.from_dense(dense, groups, settings["k"], "linear", shared=shared, balance_weight=BALANCE)
        fit_linear(part, x, needed_by_activation(hidden_activations(dense, x), groups))
        return view.as_replacement(part.eval())
