"""Fast feedforward with leaves: a tree of sigmoid neurons sends each token to one small MLP; a second one is always on.

    p_n = sigmoid(w_n . x + b_n),   P_leaf = product on the way to the leaf of p_n (right) or 1 - p_n (left)
    tree(x) = sum over leaves of P_leaf MLP_leaf(x)   in training,   MLP of the leaf reached by p_n > 1/2   otherwise
    y = sigmoid(k) tree(x) + (1 - sigmoid(k)) MLP_master(x)

A tree of depth d has 2^d - 1 nodes and 2^d leaves. p_n = 1/2 exactly goes left. Two losses are published through
`aux_losses`: "harden", the mean entropy of the node decisions, which closes the gap between training and use, and
"balance", 2^d sum over leaves of f_leaf mean(P_leaf), where f_leaf is the share of tokens that a hard walk would send
there.

Shapes: x (..., D) -> p (N, 2^d - 1) -> y (..., D); leaves up (2^d, d_leaf, D), down (2^d, D, d_leaf), with biases.

At use only the nodes on the way and one leaf are computed, and the nodes then have no gradient, rightly: a hard
decision is piecewise constant.

Paper: Charalampopoulos et al. 2024, "Enhancing Fast Feed Forward Networks with Load Balancing and a Master Leaf Node",
arXiv 2405.16836 (P293), on Belcak & Wattenhofer 2023, "Fast Feedforward Networks", arXiv 2308.14711. Confirmed in the
authors' code (AndreasCharalamp/fastfeedforward-experiments): both losses with weight 1, ReLU leaves with biases, the
master leaf of width 8 blended by a trainable sigmoid(k) from k = 1/2 on, starting weights; harder training at the end
(entropy weight 3, no balancing) is left to the training loop.
Differs from the paper: their code scales the balancing by the nominal batch size, here it is the tokens' true number;
random swaps of regions in training (off in their runs) are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, report_aux, require_positive, stored_bytes
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.experts import grouped_linear, mix_experts
from layersmith.ffn.shared.routing import balance_loss
from layersmith.ffn.shared.tree import descend, leaf_probabilities, path


class FFFLeaves(FeedForward):
    """Fast feedforward with leaves, load balancing and a master leaf.

    d_model          width of the residual stream
    depth            decisions on the way to a leaf; 2^depth leaves
    d_leaf           hidden width of one leaf
    master_width     hidden width of the leaf that is always on (0: none, the plain fast feedforward)
    act              activation of the leaves, as for `mlp`
    harden_weight    weight of the loss "harden" (0: not reported)
    balance_weight   weight of the loss "balance" (0: not reported)
    """

    name = "fff_leaves"

    def __init__(
        self,
        d_model: int,
        depth: int,
        d_leaf: int,
        master_width: int = 8,
        act: str = "relu",
        harden_weight: float = 1.0,
        balance_weight: float = 1.0,
    ):
        super().__init__()
        require_positive(FFFLeaves, d_model=d_model, d_leaf=d_leaf)
        for name, size in (("depth", depth), ("master_width", master_width)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise ValueError(f"FFFLeaves: {name} must be an integer of at least 0, not {size!r}.")
        for name, weight in (("harden_weight", harden_weight), ("balance_weight", balance_weight)):
            if not weight >= 0:
                raise ValueError(f"FFFLeaves: {name} must be at least 0, not {weight!r}.")
        self.depth, self.n_leaves = depth, 2**depth
        self.harden_weight, self.balance_weight = harden_weight, balance_weight
        self.act = activation(act)
        self.node = nn.Parameter(torch.empty(self.n_leaves - 1, d_model)) if depth else None
        self.node_bias = nn.Parameter(torch.empty(self.n_leaves - 1)) if depth else None
        self.up = nn.Parameter(torch.empty(self.n_leaves, d_leaf, d_model))
        self.up_bias = nn.Parameter(torch.empty(self.n_leaves, d_leaf))
        self.down = nn.Parameter(torch.empty(self.n_leaves, d_model, d_leaf))
        self.down_bias = nn.Parameter(torch.empty(self.n_leaves, d_model))
        self.master = MLP(d_model, master_width, act) if master_width else None
        self.k = nn.Parameter(torch.tensor(0.5)) if master_width else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _, d_leaf, d_model = self.up.shape
        outer = [self.down, self.down_bias]
        inner = [p for p in (self.node, self.node_bias, self.up, self.up_bias) if p is not None]
        if self.master is not None:
            inner += self.master.up.parameters()
            outer += self.master.down.parameters()
        for parameters, fan_in in ((inner, d_model), (outer, d_leaf)):
            for parameter in parameters:
                nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        y = self._soft(tokens) if self.training else self._hard(tokens)
        if self.master is not None and self.k is not None:
            share = self.k.sigmoid()
            y = share * y + (1 - share) * self.master(tokens)
        return y.reshape(x.shape)

    def _soft(self, tokens: Tensor) -> Tensor:
        reach = tokens.new_ones(len(tokens), 1)
        if self.node is not None:
            logits = F.linear(tokens, self.node, self.node_bias)
            reach = leaf_probabilities(logits.sigmoid())
            if self.harden_weight > 0 and len(tokens):
                entropy = F.softplus(logits) - logits * logits.sigmoid()  # of a coin that shows sigmoid(logit)
                report_aux(self, "harden", self.harden_weight * entropy.mean())
            if self.balance_weight > 0:
                leaf = self._leaf(*_last(logits.detach()))
                report_aux(self, "balance", self.balance_weight * balance_loss(reach, leaf[:, None]))
        hidden = self.act(torch.einsum("td,lhd->tlh", tokens, self.up) + self.up_bias)
        mixed = torch.einsum("tlh,ldh->td", hidden * reach[:, :, None], self.down.to(hidden.dtype))
        return mixed + reach @ self.down_bias.to(reach.dtype)

    def _hard(self, tokens: Tensor) -> Tensor:
        if self.node is None or self.node_bias is None:
            leaf = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        else:
            with torch.no_grad():
                logits, nodes = descend(tokens, self.node[None], self.node_bias[None])
            leaf = self._leaf(logits[:, 0, -1], nodes[:, 0, -1])
        return mix_experts(tokens, leaf[:, None], tokens.new_ones(len(tokens), 1), self.n_leaves, self._run)

    def _leaf(self, logit: Tensor, node: Tensor) -> Tensor:
        """The leaf below the last node of the way."""
        return 2 * node + 1 + (logit > 0) - (self.n_leaves - 1)

    def _run(self, rows: Tensor, counts: Tensor) -> Tensor:
        up_bias, down_bias = (
            b.repeat_interleave(counts, dim=0, output_size=len(rows)) for b in (self.up_bias, self.down_bias)
        )
        hidden = self.act(grouped_linear(rows, self.up, counts) + up_bias)
        return grouped_linear(hidden, self.down, counts) + down_bias

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        leaves = sum(p.numel() for p in (self.up, self.up_bias, self.down, self.down_bias))
        nodes = sum(p.numel() for p in (self.node, self.node_bias) if p is not None)
        way = nodes // max(self.n_leaves - 1, 1) * self.depth
        return Cost(
            params=params,
            active_params=params - leaves - nodes + leaves // self.n_leaves + way,
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )


def _last(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Logit and number of the last node on the way of a hard walk, from the logits of all nodes (N, nodes)."""
    node = path(logits[:, None])[:, 0, -1]
    return logits.gather(1, node[:, None])[:, 0], node
