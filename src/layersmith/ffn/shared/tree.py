"""What trees of neurons share: where a token goes in a complete binary tree, and how likely it reaches each leaf.

Nodes are numbered level by level: the root is 0, the children of node n are 2n + 1 and 2n + 2. A token goes to 2n + 2
where its logit is above 0, and to 2n + 1 otherwise, so a logit of exactly 0 goes left.

Shapes: N tokens, P trees side by side, L levels, 2**L - 1 nodes in each tree.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from layersmith.kernels.tree import levels_of, serves


def path(logits: Tensor) -> Tensor:
    """The nodes a token passes, from the logits of all nodes: (N, P, nodes) -> int (N, P, L)."""
    node = torch.zeros(*logits.shape[:2], 1, dtype=torch.long, device=logits.device)
    passed = [node]
    for _ in range(levels_of(logits.shape[2]) - 1):
        node = 2 * node + 1 + (logits.gather(2, node) > 0)
        passed.append(node)
    return torch.cat(passed, dim=2)


def descend(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Walk down, computing only the logits w_n . x + b_n on the way.

    x (N, D), weight (P, nodes, D), bias (P, nodes) -> logits (N, P, L) and rows (N, P, L), the nodes' rows in
    `weight.flatten(0, 1)`. Without gradients and where they serve, compiled kernels do it.
    """
    if serves(x, weight, bias):
        return torch.ops.layersmith.tree_descend(x, weight, bias)
    trees, nodes, _ = weight.shape
    rows, biases = weight.flatten(0, 1), bias.flatten()
    row = first = torch.arange(trees, device=x.device).expand(len(x), -1) * nodes
    logits, passed = [], []
    for _ in range(levels_of(nodes)):
        logit = (F.embedding(row, rows) @ x[:, :, None])[:, :, 0] + biases[row]
        logits.append(logit)
        passed.append(row)
        row = first + 2 * (row - first) + 1 + (logit > 0)
    return torch.stack(logits, dim=2), torch.stack(passed, dim=2)


def leaf_probabilities(p: Tensor) -> Tensor:
    """How likely each leaf is reached when node n goes right with probability p[:, n]: (N, nodes) -> (N, nodes + 1)."""
    reach = torch.ones_like(p[:, :1]) if p.shape[1] else p.new_ones(len(p), 1)
    for level in range(levels_of(p.shape[1])):
        right = p[:, 2**level - 1 : 2 ** (level + 1) - 1]
        reach = torch.stack([reach * (1 - right), reach * right], dim=2).flatten(1)
    return reach
