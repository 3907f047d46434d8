"""Our `butterfly` beside the authors' plain PyTorch butterfly product and bit reversal.

python benchmarks/official/butterfly.py CHECKOUT_OF_BUTTERFLY
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit, pieces

from layersmith.linear.butterfly import Butterfly

HEADER = "import math\nimport numpy as np\nimport torch\nfrom torch.nn import functional as F\n"


def main() -> None:
    checkout = Path(sys.argv[1])
    multiply = pieces(checkout / "torch_butterfly/multiply.py", ["butterfly_multiply_torch"], HEADER)
    permutation = pieces(checkout / "torch_butterfly/permutation.py", ["bitreversal_permutation"], HEADER)
    torch.manual_seed(0)
    worst = 0.0
    for d_in, d_out in ((64, 64), (50, 200), (200, 50)):
        for depth in (1, 2):
            ours = Butterfly(d_in, d_out, depth).double()
            x = torch.randn(9, d_in, dtype=torch.double)
            stacks = ours.twiddle.shape[0]
            theirs = multiply.butterfly_multiply_torch(ours.twiddle, x[:, None].expand(-1, stacks, -1), True)
            worst = max(worst, float((theirs.flatten(1)[:, :d_out] - ours(x)).detach().abs().max()))
    reversal = Butterfly(256, 8, permutation="bit_reversal").reversal
    assert reversal.tolist() == permutation.bitreversal_permutation(256).tolist()
    source = f"github:HazyResearch/butterfly@{commit(checkout)}, torch_butterfly butterfly_multiply_torch"
    compared = "outputs for 64-64, 50-200 and 200-50, one and two products, float64; the order of the bit reversal"
    print(record.save_official("butterfly", "butterfly", source, compared, worst, 1e-10))


if __name__ == "__main__":
    main()
