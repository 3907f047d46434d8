"""Our `peer` beside a third-party port (lucidrains/PEER-pytorch); the author released no code that we know of.

python benchmarks/official/peer.py CHECKOUT_OF_PEER_PYTORCH COMMIT        (needs einops and einx)
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
import torch

from layersmith.ffn.peer import PEER

D, N_KEYS, HEADS, K, HALF = 96, 32, 8, 16, 24


def main() -> None:
    checkout, commit = Path(sys.argv[1]), sys.argv[2]
    sys.path.insert(0, str(checkout))
    from PEER_pytorch.PEER import PEER as Port  # type: ignore[import-not-found]

    torch.manual_seed(0)
    theirs = Port(
        D, heads=HEADS, num_experts=N_KEYS**2, num_experts_per_head=K, dim_key=HALF, non_competing_scores=False
    ).eval()
    ours = PEER(D, N_KEYS, HEADS, K, 2 * HALF, query_norm=False).eval()
    with torch.no_grad():
        theirs.keys.mul_(20)  # they start so small that every softmax is flat
        # Their queries are laid out (half, head, width), ours (head, half, width); their keys (head, key, half, width).
        weight = theirs.to_queries[0].weight.unflatten(0, (2, HEADS, HALF))
        ours.search.query.weight.copy_(weight.transpose(0, 1).flatten(0, 2))
        ours.search.query.bias.zero_()
        ours.search.keys.copy_(theirs.keys.transpose(1, 2))
        ours.up.copy_(theirs.weight_down_embed.weight)
        ours.down.copy_(theirs.weight_up_embed.weight)
    x = torch.randn(3, 40, D)
    pairs = {"outputs": (ours(x), theirs(x))}
    for module in (ours, theirs):
        (module(x) * torch.linspace(-1, 1, D)).mean().backward()
    pairs["gradient of u"] = ours.up.grad, theirs.weight_down_embed.weight.grad
    pairs["gradient of v"] = ours.down.grad, theirs.weight_up_embed.weight.grad
    pairs["gradient of the keys"] = ours.search.keys.grad, theirs.keys.grad.transpose(1, 2)
    worst = 0.0
    for name, (a, b) in pairs.items():
        difference = (a - b).abs().max().item()
        print(f"{name}: {difference:.2e} of {b.abs().max().item():.2e}")
        worst = max(worst, difference)
    record.save_official(
        "peer",
        "peer",
        f"github:lucidrains/PEER-pytorch@{commit}, PEER_pytorch/PEER.py (third-party port)",
        f"outputs (largest {pairs['outputs'][1].abs().max().item():.0f}) and gradients of u, v and keys, float32, "
        f"d {D}, {N_KEYS}^2 experts, {HEADS} heads, k {K}; softmax scores, no query norm in either",
        worst,
        1e-4,
        f"einops {version('einops')}, einx {version('einx')}",
    )


if __name__ == "__main__":
    main()
