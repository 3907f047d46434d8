"""Our `pattention` beside the authors' Pattention, with each of the three normalisations.

python benchmarks/official/pattention.py CHECKOUT_OF_TOKENFORMER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from types import SimpleNamespace

import record
from checkout import commit, pieces

from layersmith.ffn.pattention import THETAS, Pattention

HEADER = "import math\nimport torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n"


def main() -> None:
    checkout = Path(sys.argv[1])
    theirs = pieces(checkout / "megatron/model/tokenformer.py", ["Pattention"], HEADER)
    torch.manual_seed(0)
    worst = 0.0
    for theta in THETAS:
        args = SimpleNamespace(norm_activation_type=theta)
        module = theirs.Pattention(args, 24, 24, 80, torch.nn.init.normal_, torch.nn.init.normal_).double()
        ours = Pattention(24, 80, theta).double()
        ours.load_state_dict({"keys": module.key_param_tokens, "values": module.value_param_tokens})
        x, y = (torch.randn(2, 7, 24, dtype=torch.double) for _ in range(2))
        x, again = x.requires_grad_(), x.detach().clone().requires_grad_()
        a, b = ours(x), module(again)
        (a * y).sum().backward()
        (b * y).sum().backward()
        pairs = [(a, b), (x.grad, again.grad), (ours.keys.grad, module.key_param_tokens.grad)]
        worst = max(worst, *(float((p - q).detach().abs().max()) for p, q in pairs if p is not None and q is not None))
    source = f"github:Haiyang-W/TokenFormer@{commit(checkout)}, megatron/model/tokenformer.py Pattention"
    compared = "outputs and gradients of input and keys, 80 tokens of width 24, all three normalisations, float64"
    print(record.save_official("pattention", "pattention", source, compared, worst, 1e-10))


if __name__ == "__main__":
    main()
