"""Our KAN beside released ones: efficient-kan (B-splines), All-KAN (Chebyshev, Fourier, Gaussians), ReLU-KAN.

python benchmarks/official/kan.py EFFICIENT_KAN ALL_KAN RELU_KAN        paths of checkouts
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from official.checkout import commit, load
from record import save_official

from layersmith.ffn.kan import KAN
from layersmith.ffn.shared.kan_basis import Basis, make_basis
from layersmith.ffn.shared.kan_layer import KANLayer

D, HIDDEN, OUT, TOKENS = 24, 40, 16, 200


def difference(ours: nn.Module, theirs: nn.Module, x: Tensor) -> float:
    """Largest absolute difference of outputs and of input gradients."""
    mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = ours(mine), theirs(other).flatten(1)
    direction = torch.randn_like(y)
    (y * direction).sum().backward()
    (z * direction).sum().backward()
    assert mine.grad is not None
    assert other.grad is not None
    return max((y - z).abs().max().item(), (mine.grad - other.grad).abs().max().item())


@torch.no_grad()
def layer(basis: Basis, coefficients: Tensor, base: Tensor | None = None, bias: Tensor | None = None) -> KANLayer:
    made = KANLayer(D, OUT, basis)
    made.coefficients.copy_(coefficients)
    made.base.weight.copy_(torch.zeros(OUT, D) if base is None else base)
    made.base.bias.copy_(torch.zeros(OUT) if bias is None else bias)
    return made


@torch.no_grad()
def spline_network(efficient: Path) -> tuple[KAN, nn.Module]:
    theirs = load(efficient, "src/efficient_kan/kan.py").KAN([D, HIDDEN, D])
    ours = KAN(D, HIDDEN, size=8, low=-1.0, high=1.0)
    for mine, other in zip((ours.up, ours.down), theirs.layers, strict=True):
        # Small base weights keep the hidden layer on the grid, beyond which the two differ by intent.
        other.base_weight.mul_(0.3)
        other.spline_weight.normal_(std=0.5)
        other.spline_scaler.normal_(std=0.5 * other.in_features**-0.5)
        mine.coefficients.copy_(other.scaled_spline_weight)
        mine.base.weight.copy_(other.base_weight)
        mine.base.bias.zero_()
    return ours, theirs


def main() -> None:
    efficient, everything, relu = (Path(argument) for argument in sys.argv[1:4])
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    x, inside = torch.randn(TOKENS, D), 2 * torch.rand(TOKENS, D) - 1
    found = {}

    ours, network = spline_network(efficient)
    assert ours.up(inside).abs().max() < 1
    print(f"hidden up to {ours.up(inside).abs().max():.2f}, outputs up to {ours(inside).abs().max():.2f}")
    found["B-spline network"] = difference(ours, network, inside)

    cheby = load(everything, "models/cheby_kan.py").ChebyKANLayer(D, OUT, degree=5)
    ours_layer = layer(make_basis("chebyshev", 6, -1.0, 1.0), cheby.cheby_coeffs.transpose(0, 1))
    found["Chebyshev"] = difference(ours_layer, cheby, x)

    fourier = load(everything, "models/fourier_kan.py").FourierKANLayer(D, OUT, gridsize=5)
    waves = torch.cat(list(fourier.fouriercoeffs), -1)
    fourier.layernorm = nn.Identity()
    found["Fourier"] = difference(
        layer(make_basis("fourier", 10, -math.pi, math.pi), waves, bias=fourier.bias[0]), fourier, x
    )

    fast = load(everything, "models/fast_kan.py").FastKANLayer(D, OUT, num_grids=8, use_layernorm=False)
    bumps = fast.spline_linear.weight.view(OUT, D, 8)
    ours_layer = layer(make_basis("rbf", 8, -2.0, 2.0), bumps, fast.base_linear.weight, fast.base_linear.bias)
    found["Gaussians"] = difference(ours_layer, fast, x)

    product = load(relu, "torch_relu_kan.py").ReLUKANLayer(D, 5, 3, OUT).double()
    weight, bias = product.equal_size_conv.weight, product.equal_size_conv.bias
    ours_layer = layer(make_basis("relu", 8, 0.0, 1.0), weight.view(OUT, D, 8), bias=bias)
    found["ReLU products"] = difference(ours_layer, _Column(product), torch.rand(TOKENS, D))

    for what, value in found.items():
        print(f"{what:20} {value:.2e}")
    save_official(
        "kan",
        part="kan",
        source=f"github:Blealtan/efficient-kan@{commit(efficient)}, src/efficient_kan/kan.py; "
        f"github:hoangthangta/All-KAN@{commit(everything)}, models/cheby_kan.py, fourier_kan.py, fast_kan.py; "
        f"github:quiqi/relu_kan@{commit(relu)}, torch_relu_kan.py",
        compared=f"outputs and input gradients, float64, {TOKENS} tokens: the two-layer B-spline network {D}-{HIDDEN}-"
        f"{D} on its grid (outside it ours goes on as a line, theirs drops to 0), one layer {D}-{OUT} of each other "
        "basis; their layer norms were left out",
        max_abs_diff=max(found.values()),
        tolerance=1e-9,
    )


class _Column(nn.Module):
    """ReLU-KAN takes inputs as columns."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x[..., None])


if __name__ == "__main__":
    main()
