"""FactorLLM: a feed-forward cut as it stands into a few groups, and a router that learns which of them suffice.

Paper: Zhao et al. 2024, "FactorLLM". No neuron moves; the router is trained to pick the groups whose own output comes
nearest to its share of the whole output (the prior-approximate loss), and everything is distilled after. With all
groups it is the original.
"""

from __future__ import annotations

from layersmith.anatomy.edit import Replacement
from layersmith.ffn.split_ffn import SplitFFN
from layersmith.refitting.method import Method, Settings
from layersmith.refitting.methods.experts.gates import fit_prior, needed_by_error
from layersmith.refitting.methods.experts.partitions import in_order
from layersmith.refitting.methods.experts.refusals import refuses_split
from layersmith.refitting.methods.prune.width import hidden_activations
from layersmith.refitting.view import SublayerView

EXPERTS = 4


class FactorLLM(Method):
    name = "factor_llm"
    kinds = ("ffn",)
    papers = ("factorllm-factorizing-knowledge-mixture-experts",)
    builds = ("split_ffn",)
    default = False
    saves = ("flops",)
    requires = "a plain or gated feed-forward whose hidden channels divide into the experts"
    statistics = ("inputs",)
    distils = True
    when_it_pays = "Only with enough distillation after it: groups of neighbours have nothing in common at the start."
    differs = "The router is trained first and the groups after it, where the paper trains both together."

    def unsupported_reason(self, view: SublayerView) -> str | None:
        return refuses_split(view, EXPERTS)

    def options(self, view: SublayerView) -> list[Settings]:
        return [{"k": 3}, {"k": 2}]

    def build(self, view: SublayerView, settings: Settings) -> Replacement:
        dense, x, k = view.ffn.operator, view.inputs, settings["k"]
        groups = in_order(dense.down.in_features, EXPERTS, view.device)
        part = SplitFFN.from_dense(dense, groups, k, "linear")
        hidden = hidden_activations(dense, x)
        fit_prior(part, x, needed_by_error(hidden, groups, dense.down.weight.detach(), k))
        return view.as_replacement(part.eval())
