"""Our `low_rank`, `block_shuffle` and `block_dense` maps beside the authors' products of the same factors.

python benchmarks/official/structured.py CHECKOUT_OF_STRUCTUREDFFN
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit, pieces

from layersmith.linear.block_dense import BlockDense
from layersmith.linear.block_shuffle import BlockShuffle
from layersmith.linear.low_rank import LowRank

HEADER = "import numpy as np\nimport torch\n"


def main() -> None:
    checkout = Path(sys.argv[1])
    op = checkout / "src/modules/op"
    low_rank = pieces(op / "low_rank.py", ["low_rank_custom"], HEADER)
    shuffle = pieces(op / "block_shuffle.py", ["block_shuffle_bmm"], HEADER)
    dense = pieces(op / "block_dense.py", ["block_dense_bmm"], HEADER)
    source = f"github:CLAIRE-Labo/StructuredFFN@{commit(checkout)}, src/modules/op"
    torch.manual_seed(0)
    worst = {"low_rank": 0.0, "block_shuffle": 0.0, "block_dense": 0.0}
    for d_in, d_out in ((24, 24), (24, 48), (48, 24)):
        x = torch.randn(2, 9, d_in, dtype=torch.double)
        a, b, c = LowRank(d_in, d_out, 8), BlockShuffle(d_in, d_out, 4), BlockDense(d_in, d_out, 8, 4)
        for part, theirs in (
            (a.double(), lambda a=a, x=x: low_rank.low_rank_custom(x, a.v.weight, a.u.weight)),
            (b.double(), lambda b=b, x=x: shuffle.block_shuffle_bmm(x, b.b, b.c)),
            (c.double(), lambda c=c, x=x: dense.block_dense_bmm(x, c.b, c.u.weight)),
        ):
            worst[part.name] = max(worst[part.name], float((part(x) - theirs()).detach().abs().max()))
    compared = "outputs with the same factors for 24-24, 24-48 and 48-24, 4 blocks, rank 8, float64"
    for name, difference in worst.items():
        print(record.save_official(name, name, source, compared, difference, 1e-10))


if __name__ == "__main__":
    main()
