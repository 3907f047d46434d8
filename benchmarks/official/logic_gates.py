"""Our `logic_gates` beside difflogic's LogicLayer (soft and hardened) and GroupSum, on given bits.

python benchmarks/official/logic_gates.py CHECKOUT_OF_DIFFLOGIC
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit, pieces

from layersmith.ffn.logic_gates import LogicGates

#: Their bit-packed CUDA tensors are not used here.
HEADER = "import numpy as np\nimport torch\nfrom torch import nn\n\n\nclass PackBitsTensor:\n    pass\n"


def main() -> None:
    checkout = Path(sys.argv[1])
    functional = pieces(checkout / "difflogic/functional.py", ["bin_op", "bin_op_s"], HEADER)
    theirs = pieces(checkout / "difflogic/difflogic.py", ["LogicLayer", "GroupSum"], HEADER)
    theirs.bin_op_s = functional.bin_op_s
    torch.manual_seed(0)
    worst, tau = 0.0, 2.5
    ours = LogicGates(6, 48, layers=3, thresholds=4, tau=tau).double()
    layers = []
    for gates, (a, b) in zip(ours.gates, ours.wires, strict=True):
        layer = theirs.LogicLayer(24 if not layers else 48, 48, device="cpu")
        layer.weights, layer.indices = gates, (a, b)
        layers.append(layer)
    whole = torch.nn.Sequential(*layers, theirs.GroupSum(6, tau, device="cpu"))
    x = torch.randn(11, 6, dtype=torch.double)
    for part, mode in ((ours, True), (ours.hardened(), False)):
        offset = x[..., None] - ours.threshold
        bits = (ours.slope * offset).sigmoid() if mode else (offset > 0).double()
        groups = whole.train(mode)(bits.flatten(-2))
        difference = part(x) - (groups * ours.scale + ours.shift)
        worst = max(worst, float(difference.detach().abs().max()))
    source = f"github:Felix-Petersen/difflogic@{commit(checkout)}, difflogic.py LogicLayer and GroupSum"
    compared = "three layers of 48 gates on 24 bits, group sums of 6 outputs, soft and hardened, float64"
    print(record.save_official("logic_gates", "logic_gates", source, compared, worst, 1e-10))


if __name__ == "__main__":
    main()
