"""Our TruKAN layers beside the authors', on the interval of the knots.

python benchmarks/official/tru_kan.py TRUKAN [COMMIT]    path of a checkout; its commit where git cannot say
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from official.checkout import commit, load
from record import save_official

from layersmith.ffn.tru_kan import TruKAN

D, HIDDEN, TOKENS = 24, 40, 200


def difference(checkout: Path, degree: int) -> float:
    """Outputs of the two layers one after the other, and the gradients of input and coefficients."""
    theirs = load(checkout, "src/trukan/trukan_layer.py").TruKanLayer
    ours = TruKAN(D, HIDDEN, knots=6, degree=degree, low=-1.0, high=1.0, norm=False)
    layers = [theirs(D, HIDDEN, degree), theirs(HIDDEN, D, degree)]
    with torch.no_grad():
        for mine, other in zip((ours.up, ours.down), layers, strict=True):
            mine.bias.normal_(std=0.1)
            other.coeffs.copy_(mine.coefficients.transpose(0, 1))
            other.bias_out.copy_(mine.bias)
    x = (2 * torch.rand(TOKENS, D) - 1).requires_grad_()
    assert ours.up(x).abs().max() < 1
    got, expected = ours(x), layers[1](layers[0](x))
    direction = torch.randn_like(got)
    mine_gradients = torch.autograd.grad((got * direction).sum(), [x, ours.up.coefficients])
    their_gradients = torch.autograd.grad((expected * direction).sum(), [x, layers[0].coeffs])
    pairs = [
        (got, expected),
        (mine_gradients[0], their_gradients[0]),
        (mine_gradients[1], their_gradients[1].transpose(0, 1)),
    ]
    return max((a - b).abs().max().item() for a, b in pairs)


def main() -> None:
    checkout = Path(sys.argv[1])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    found = {degree: difference(checkout, degree) for degree in (2, 3, 4)}
    for degree, value in found.items():
        print(f"degree {degree}: {value:.2e}")
    save_official(
        "tru_kan",
        part="tru_kan",
        source=f"github:alibayeh/trukan@{sys.argv[2] if len(sys.argv) > 2 else commit(checkout)}, "
        "src/trukan/trukan_layer.py, TruKanLayer.forward",
        compared=f"outputs, gradients of input and coefficients of two layers {D}-{HIDDEN}-{D} with 6 fixed knots, "
        f"degrees 2 to 4, {TOKENS} tokens, float64, inputs on the interval of the knots (outside it ours goes on as a "
        "line); norms off, which their layer lacks",
        max_abs_diff=max(found.values()),
        tolerance=1e-9,
    )


if __name__ == "__main__":
    main()
