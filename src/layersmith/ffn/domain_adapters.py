"""Domain adapters: bottlenecks beside the last map of a trained feed-forward, mixed by a gate for every token.

    h = act(W_up x) or act(W_gate x) * W_up x           what enters the last map
    y = W_down h + sum_k g_k A_k(h),   A_k(h) = U_k gelu(D_k h + d_k) + u_k,   (g_0, g_1 .. g_K) = softmax(G h)

The feed-forward is the memory of what was known, the adapters of what each domain adds; g_0 is the share of none of
them. U and u start as zeros: then it is the feed-forward that was there. All K adapters run.

Shapes: x (..., D) -> h (..., d_hidden) -> K bottlenecks (..., K, d_adapter) -> y (..., D).

Paper: Diao et al. 2023, "Mixture-of-Domain-Adapters: Decoupling and Injecting Domain Knowledge to Pre-trained Language
Models Memories", arXiv 2306.05406. Confirmed in the released code: adapters and gate read h, GELU, U and u from zero, a
gate over the adapters and the feed-forward's own output.
Differs from the paper: the feed-forward keeps weight one, where the released code gives it g_0, so that a new gate does
not change a trained model; the gate is one linear map, not three layers.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import FeedForward, require_positive
from layersmith.ffn.glu import GLU
from layersmith.ffn.mlp import MLP


class DomainAdapters(FeedForward):
    """A feed-forward `dense` with K adapters beside its last map.

    d_model, d_hidden   widths of the residual stream and of the hidden layer
    n_adapters          K, one a domain
    d_adapter           width of a bottleneck
    act, gated, bias    form of the feed-forward: that of `glu`, without `gated` that of `mlp`
    """

    name = "domain_adapters"

    def __init__(
        self,
        d_model: int,
        d_hidden: int,
        n_adapters: int = 2,
        d_adapter: int = 16,
        act: str = "silu",
        gated: bool = True,
        bias: bool = False,
    ):
        super().__init__()
        require_positive(DomainAdapters, d_model=d_model, d_hidden=d_hidden, n_adapters=n_adapters, d_adapter=d_adapter)
        self.dense = (GLU if gated else MLP)(d_model, d_hidden, act, bias)
        bound = d_hidden**-0.5
        self.enter = nn.Parameter(torch.empty(n_adapters, d_adapter, d_hidden).uniform_(-bound, bound))
        self.enter_bias = nn.Parameter(torch.zeros(n_adapters, d_adapter))
        self.leave = nn.Parameter(torch.zeros(n_adapters, d_model, d_adapter))
        self.leave_bias = nn.Parameter(torch.zeros(n_adapters, d_model))
        self.gate = nn.Parameter(torch.empty(n_adapters + 1, d_hidden).uniform_(-bound, bound))

    @classmethod
    def from_dense(cls, dense: GLU | MLP, n_adapters: int, d_adapter: int) -> DomainAdapters:
        """Adapters that change nothing yet, beside a trained feed-forward."""
        spec, gated = dense.spec(), isinstance(dense, GLU)
        part = cls(
            spec["d_model"], spec["d_hidden"], n_adapters, d_adapter, act=spec["act"], gated=gated, bias=spec["bias"]
        ).to(dense.up.weight)
        part.dense.load_state_dict(dense.state_dict())
        return part

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dense.up(x)
        if isinstance(self.dense, GLU):
            hidden = self.dense.act(self.dense.gate(x)) * hidden
        else:
            hidden = self.dense.act(hidden)
        shares = F.linear(hidden, self.gate).softmax(-1)[..., 1:]  # (..., K)
        inner = F.gelu(F.linear(hidden, self.enter.flatten(0, 1), self.enter_bias.flatten()))
        inner = inner.unflatten(-1, self.enter.shape[:2]) * shares[..., None]  # (..., K, d_adapter)
        added = F.linear(inner.flatten(-2), self.leave.transpose(0, 1).flatten(1)) + shares @ self.leave_bias
        return self.dense.down(hidden) + added
