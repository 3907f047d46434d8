"""Fast feedforward: each token walks down a binary tree of neurons and uses only the few neurons it passes.

    l_n = w_n . x + b_n,   from the root down: n <- 2n + 1 + [l_n > 0],   y = sum over the nodes passed of act(l_n) v_n

A tree of depth d has 2^(d+1) - 1 neurons, of which a token uses d + 1; a neuron both contributes and decides the way.
A logit of exactly 0 goes left. Several trees may stand side by side; their outputs add.

Shapes: x (..., D) -> logits on the way (N, trees, depth + 1) -> y (..., D); w, v (trees, 2^(depth+1) - 1, D), both
with one contiguous row per neuron.

In training all logits are computed and those off the way are dropped, as published; the decisions carry no gradient.
Otherwise the tree is really walked, in compiled code on the CPU where no gradient is wanted. Both give the same values.

Paper: Belcak & Wattenhofer 2023, "Exponentially Faster Language Modelling", arXiv 2311.10770 (P297). Confirmed in the
authors' code (pbelcak/UltraFastBERT, training/): masked training, the decision logit > 0, GELU, biases on the way in
only, uniform starting weights within D^-1/2 (in) and ((depth + 1) trees)^-1/2 (out).
Differs from the paper: nothing in the layer. Their inference benchmarks leave out the biases, and one of them sends a
logit of 0 to the right.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from layersmith.contract import Cost, FeedForward, require_positive, stored_bytes
from layersmith.ffn.shared.activations import activation
from layersmith.ffn.shared.tree import descend, path
from layersmith.kernels.tree import ACTIVATIONS, serves


class FFF(FeedForward):
    """Fast feedforward without leaves (UltraFastBERT).

    d_model   width of the residual stream
    depth     levels below the root; a token uses depth + 1 of the 2^(depth + 1) - 1 neurons of a tree
    n_trees   trees side by side
    act       activation, as for `mlp`
    """

    name = "fff"

    def __init__(self, d_model: int, depth: int, n_trees: int = 1, act: str = "gelu"):
        super().__init__()
        require_positive(FFF, d_model=d_model, n_trees=n_trees)
        if isinstance(depth, bool) or not isinstance(depth, int) or depth < 0:
            raise ValueError(f"FFF: depth must be an integer of at least 0, not {depth!r}.")
        self.depth, self.n_trees = depth, n_trees
        self.act, self.act_name = activation(act), act
        nodes = 2 ** (depth + 1) - 1
        self.up = nn.Parameter(torch.empty(n_trees, nodes, d_model))
        self.bias = nn.Parameter(torch.empty(n_trees, nodes))
        self.down = nn.Parameter(torch.empty(n_trees, nodes, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        used = (self.depth + 1) * self.n_trees
        for parameter, fan_in in ((self.up, self.up.shape[2]), (self.bias, self.up.shape[2]), (self.down, used)):
            nn.init.uniform_(parameter, -(fan_in**-0.5), fan_in**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        y = self._all_logits(tokens) if self.training else self._way_only(tokens)
        return y.reshape(x.shape)

    def _all_logits(self, tokens: Tensor) -> Tensor:
        logits = torch.einsum("td,pnd->tpn", tokens, self.up) + self.bias
        passed = path(logits.detach())
        used = torch.zeros_like(logits).scatter(2, passed, 1.0)
        return torch.einsum("tpn,pnd->td", self.act(logits) * used, self.down.to(logits.dtype))

    def _way_only(self, tokens: Tensor) -> Tensor:
        up, bias, down = self.up, self.bias, self.down  # once: for one token, looking them up takes time
        if self.act_name in ACTIVATIONS and serves(tokens, up, bias, down):
            return torch.ops.layersmith.tree_mlp(tokens, up, bias, down, self.act_name)
        logits, rows = descend(tokens, up, bias)
        value = self.act(logits).flatten(1)[:, None]
        return (value @ F.embedding(rows.flatten(1), down.flatten(0, 1)))[:, 0]

    def cost(self, batch: int = 1, tokens: int = 1) -> Cost:
        params = sum(p.numel() for p in self.parameters())
        return Cost(
            params=params,
            active_params=params // self.up.shape[1] * (self.depth + 1),
            flops=self._counted_flops(batch, tokens),
            weight_bytes=stored_bytes(self),
        )
