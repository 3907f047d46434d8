"""Two bottleneck adapters with a gate beside the last map of every feed-forward: a memory next to what was known.

The model keeps the part `domain_adapters`, and what it costs.

Paper: arXiv 2306.05406, "Mixture-of-Domain-Adapters". Differs: adapters and gate are trained at once on whatever text
the run heals on; the paper trains each adapter on its own domain, with a loss that keeps what was known, then the gate.
"""

from __future__ import annotations

from layersmith.contract import FeedForward
from layersmith.ffn.domain_adapters import DomainAdapters
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP
from layersmith.refitting.heal.adapters.beside import Beside

ADAPTERS = 2


class DomainAdaptersBeside(Beside):
    name = "domain_adapters"
    summary = "Two bottlenecks beside the last map of every feed-forward, mixed by a gate; they stay."
    papers = ("mixture-domain-adapters",)
    missing = "its two stages: an adapter a domain, with a loss that keeps what was known, before the gate"
    rate = 30.0
    part = DomainAdapters

    def __init__(self, rank: int = 8):
        self.rank = rank

    def around(self, dense: GLU | MLP) -> FeedForward:
        return DomainAdapters.from_dense(dense, ADAPTERS, self.rank)
