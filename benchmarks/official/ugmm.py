"""The units of our `ugmm` beside the author's uGMMLayer.

python benchmarks/official/ugmm.py CHECKOUT_OF_UGMM
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from types import SimpleNamespace

import record
from checkout import commit, pieces

from layersmith.ffn.ugmm import UGMM

HEADER = """
import torch
from torch import nn

TYPE_UGMM_LAYER = 2


class Layer(nn.Module):
    def __init__(self, dropout):
        super().__init__()
"""


def main() -> None:
    checkout = Path(sys.argv[1])
    theirs = pieces(checkout / "ugmm_layer.py", ["uGMMLayer"], HEADER)
    torch.manual_seed(0)
    ours, x = UGMM(12, 20).double(), torch.randn(9, 12, dtype=torch.double)
    before = SimpleNamespace(n_nodes=12, output=x)
    module = theirs.uGMMLayer(before, 20).double()
    with torch.no_grad():
        for mine, value in ((ours.mean, module.mu), (ours.log_std, module.std), (ours.share, module.k)):
            mine.copy_(value)
    worst = float((ours.log_density(x) - module(False)).detach().abs().max())
    source = f"github:zakeria/uGMM@{commit(checkout)}, ugmm_layer.py uGMMLayer"
    compared = "20 units over 12 inputs with the author's starting weights, log densities, float64"
    print(record.save_official("ugmm", "ugmm", source, compared, worst, 1e-6))


if __name__ == "__main__":
    main()
