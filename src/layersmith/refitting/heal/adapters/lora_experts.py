"""A mixture of low-rank adapters around every feed-forward: a router gives each token one of them.

The model keeps the part `lora_experts`, and what it costs: which adapter a token takes cannot be merged into a weight.

Paper: arXiv 2401.16160, "LLaVA-MoLE". Differs: attention stays as it is; no loss of healing balances the experts.
"""

from __future__ import annotations

from layersmith.contract import FeedForward
from layersmith.ffn.glu import GLU
from layersmith.ffn.lora_experts import LoRAExperts
from layersmith.ffn.mlp import MLP
from layersmith.refitting.heal.adapters.beside import Beside

#: Of each map.
EXPERTS = 4


class LoRAExpertsBeside(Beside):
    name = "lora_experts"
    summary = "Four low-rank adapters for the maps of every feed-forward, one of them for each token; they stay."
    papers = ("llava-mole",)
    missing = "plain adapters in the attention, and a loss of healing that balances the experts"
    rate = 30.0
    part = LoRAExperts

    def __init__(self, rank: int = 4):
        self.rank = rank

    def around(self, dense: GLU | MLP) -> FeedForward:
        rank = min(self.rank, dense.up.in_features, dense.up.out_features)
        return LoRAExperts.from_dense(dense, EXPERTS, rank)
