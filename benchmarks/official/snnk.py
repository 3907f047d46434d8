"""The ReLU features of our `snnk` beside the authors' phi_relu_mapping_torch, with the same directions.

python benchmarks/official/snnk.py CHECKOUT_OF_NEURAL_NETWORK_KERNELS
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit, pieces

from layersmith.ffn.snnk import SNNK

HEADER = "import math\nimport torch\n"


def main() -> None:
    checkout = Path(sys.argv[1])
    theirs = pieces(checkout / "src/nnk/nnk.py", ["phi_relu_mapping_torch"], HEADER)
    torch.manual_seed(0)
    ours, x = SNNK(12, 40).double(), torch.randn(2, 9, 12, dtype=torch.double)
    worst = float((ours.phi(x) - theirs.phi_relu_mapping_torch(x, 40, 12, proj_matrix=ours.g)).abs().max())
    source = f"github:arijitthegame/neural-network-kernels@{commit(checkout)}, src/nnk/nnk.py phi_relu_mapping_torch"
    compared = "40 ReLU features of 12 inputs, float64; the universal features are not compared (see the docstring)"
    print(record.save_official("snnk", "snnk", source, compared, worst, 1e-10))


if __name__ == "__main__":
    main()
