"""Our `lipschitz_ffn` with d_hidden = d_model beside the authors' SandwichFc, and our Cayley map beside theirs.

python benchmarks/official/lipschitz_ffn.py CHECKOUT_OF_LBDN
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

import record
from checkout import commit, pieces

from layersmith.ffn.lipschitz_ffn import LipschitzFFN, cayley

HEADER = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


def main() -> None:
    checkout = Path(sys.argv[1])
    theirs = pieces(checkout / "layer.py", ["cayley", "SandwichFc"], HEADER)
    torch.manual_seed(0)
    worst, gamma = 0.0, 3.0
    for shape in ((5, 12), (12, 5), (6, 6)):
        w = torch.randn(shape, dtype=torch.double)
        worst = max(worst, float((cayley(w) - theirs.cayley(w)).abs().max()))
    module, ours = theirs.SandwichFc(16, 16, scale=gamma**0.5).double().train(), LipschitzFFN(16, 16, gamma).double()
    torch.nn.init.normal_(module.psi)
    with torch.no_grad():
        for mine, value in ((ours.weight, module.weight), (ours.psi, module.psi), (ours.b, module.bias)):
            mine.copy_(value)
        ours.alpha.copy_(1.3 * module.alpha)
        module.alpha.mul_(1.3)
    x = torch.randn(9, 16, dtype=torch.double)
    worst = max(worst, float((ours(x) - gamma**0.5 * module(x)).detach().abs().max()))
    source = f"github:acfr/LBDN@{commit(checkout)}, layer.py cayley and SandwichFc"
    compared = "Cayley maps of three shapes; outputs of width 16 with scale sqrt(gamma) put on both sides, float64"
    print(record.save_official("lipschitz_ffn", "lipschitz_ffn", source, compared, worst, 1e-10))


if __name__ == "__main__":
    main()
