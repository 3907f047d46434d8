"""GR-KAN's rational activation beside FlashKAT's released Triton kernels: values and all gradients.

    git clone https://github.com/OSU-STARLAB/FlashKAT
    TRITON_INTERPRET=1 python benchmarks/official/flash_kat.py FlashKAT        (TRITON_INTERPRET: without a GPU)

Their denominator is 1 + |b_1||x| + ... + |b_n||x|^n; where no b and no x is negative it is ours. Their kernels have a
numerator for each group: it is given ours in each, and the gradients of the groups' numerators are added up.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_official

from layersmith.ffn.shared.rational import Rational
from layersmith.kernels import native
from layersmith.kernels.rational import triton_rational

TOLERANCE = 2e-6


def relative(got: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((got - theirs).abs().max() / theirs.abs().max()).item()


def main() -> None:
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout / "rational_kat" / "kernels"))
    import flash_rational_triton as flash
    import triton

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    part = Rational(256, groups=2, init="gelu").to(device)
    torch.nn.init.uniform_(part.b, 0.05, 0.5)
    x = torch.rand(2, 33, 256, device=device) * 3
    grad = torch.randn_like(x)
    a, b = part.a.detach(), part.b.detach()
    numerators = a.repeat(2, 1)
    y = flash.rational_fwd_triton(x, numerators, b)
    dx, da, db = flash.rational_bwd_triton(grad, x, numerators, b)
    theirs = [y, dx, da.sum(0), db]

    own = x.clone().requires_grad_()
    mine = part(own)
    differences = {"ours": [mine.detach(), *torch.autograd.grad(mine, (own, part.a, part.b), grad)]}
    differences["our Triton kernel"] = [triton_rational.forward(x, a, b), *triton_rational.backward(grad, x, a, b)]
    worst = max(relative(got, t) for found in differences.values() for got, t in zip(found, theirs, strict=True))
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    path = save_official(
        "flash_kat",
        "gr_kan",
        f"github:OSU-STARLAB/FlashKAT@{commit}, rational_kat/kernels/flash_rational_triton.py",
        "float32 values and gradients of x, a and b at (2, 33, 256), 2 groups, m = 5, n = 4, relative to the largest "
        f"entry; our part (compiled kernel: {native.loaded()}) and our Triton kernel; both Triton kernels on {device} "
        "(cpu: in Triton's interpreter). x and b are not negative, where the two denominators agree",
        worst,
        TOLERANCE,
        f"triton=={triton.__version__}",
        device,
    )
    print(f"{worst:.1e}, {path}")


if __name__ == "__main__":
    main()
