"""LLaMA-MoE: a gated feed-forward's neurons dealt out at random, or clustered by key, under a weighing router.

Paper: Zhu et al. 2024, "LLaMA-MoE": the independent splits (random, which the paper chose, and balanced k-means on the
rows of the up projection), a softmax over the chosen groups' scores, what they add scaled by E / k, and a balancing
loss in training. Confirmed in pjlab-sys4nlp/llama-moe: unit rows of the up projection, the softmax, factors of 4, 4 and
8 for 2 of 8, 4 of 16 and 2 of 16. With all groups and an even router it is the original.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.split_ffn import SplitFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.experts.gates import fit_linear, needed_by_activation
from layersmith.refitting.methods.experts.partitions import by_keys, random
from layersmith.refitting.methods.experts.refusals import refuses_split
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView

EXPERTS = 8
#: Weight of the balancing loss, as in their configuration.
BALANCE = 0.01


class LLaMAMoE(Method):
    name = "llama_moe"
    kinds = ("ffn",)
    papers = ("llama-moe",)
    missing = (
        "the sharing splits, the noise on the router's scores, the sampling of training data by domain, and a loss "
        "that balances while a model is healed"
    )
    builds = ("split_ffn",)
    default = False
    saves = ("flops",)
    requires = "a plain or gated feed-forward whose hidden channels divide into the experts"
    statistics = ("inputs",)
    distils = True
    when_it_pays = "As a start for long training after it, which the paper gives 200 billion tokens."
    differs = (
        "The router is linear and starts from a ridge fit of each group's activation, instead of an MLP that starts "
        "from nothing; the softmax counts k times, so that an even router over all groups is the original, where the "
        "paper's divides by their number; the balancing loss is Switch's instead of the spread of scores and of loads."
    )

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return refuses_split(view, EXPERTS)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"split": split, "k": k} for k in (4, 2) for split in ("random", "keys")]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, k = view.ffn.operator, view.inputs, settings["k"]
        if settings["split"] == "random":
            groups = random(dense.down.in_features, EXPERTS, view.seed, view.device)
        else:
            groups = view.once("groups by up", lambda: by_keys(dense.up.weight.detach(), EXPERTS))
        part = SplitFFN.from_dense(dense, groups, k, "linear", weigh=True, scale=EXPERTS / k, balance_weight=BALANCE)
        fit_linear(part, x, needed_by_activation(hidden_activations(dense, x), groups))
        return view.as_replacement(part.eval())
