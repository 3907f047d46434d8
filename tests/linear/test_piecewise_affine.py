"""Piecewise affine products bit by bit against integer addition, their error bounds, slopes, and the linear map."""

import struct

import pytest
import torch

from layersmith.linear.piecewise_affine import PiecewiseAffine
from layersmith.linear.shared.piecewise_affine import matmul, product


def bits(x: float) -> int:
    return struct.unpack("<i", struct.pack("<f", x))[0]


def by_integers(a: float, b: float) -> float:
    """The product of two float32 by adding their bits, as the paper has it."""
    if a == 0 or b == 0:
        return 0.0
    sign = -1.0 if (a < 0) != (b < 0) else 1.0
    added = bits(abs(a)) + bits(abs(b)) - bits(1.0)
    return sign * struct.unpack("<f", struct.pack("<i", added))[0]


def spread(count: int, seed: int) -> torch.Tensor:
    """float32 numbers of all sizes and both signs."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, generator=draw) * 2.0 ** torch.randint(-20, 20, (count,), generator=draw)


@pytest.mark.oracle("piecewise_affine")
def test_products_equal_integer_addition_bit_by_bit():
    a, b = spread(3000, 0), spread(3000, 1)
    a[:4], b[2:6] = torch.tensor([0.0, 1.0, -2.0, 0.5]), torch.tensor([0.0, 1.5, -1.0, 0.0])
    want = [by_integers(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert product(a, b).tolist() == want


@pytest.mark.oracle("piecewise_affine")
def test_a_product_is_up_to_a_ninth_too_small_and_never_too_large():
    a, b = spread(200_000, 2).double(), spread(200_000, 3).double()
    error = product(a, b) / (a * b) - 1
    assert -1 / 9 <= error.min() < -0.110
    assert -1e-3 < error.max() <= 1e-12
    assert -0.045 < error.mean() < -0.03
    half = torch.tensor([1.5], dtype=torch.float64)
    assert (product(half, half) / half.square() - 1).item() == pytest.approx(-1 / 9)


@pytest.mark.oracle("piecewise_affine")
def test_a_power_of_two_loses_nothing():
    powers = torch.tensor([2.0**n for n in range(-10, 10)])
    a = spread(20, 4)
    assert torch.equal(product(a, powers), a * powers)
    assert torch.equal(product(-powers, a), -powers * a)


def test_slopes_are_those_of_the_pieces():
    a = torch.tensor([1.25, 1.75, -3.0, 1.25], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([1.25, 1.75, 6.5, -8.0], dtype=torch.float64)
    (slope,) = torch.autograd.grad(product(a, b).sum(), a)
    assert slope.tolist() == [1.0, 2.0, 8.0, -8.0]  # 2^e_b, twice that where 0.75 + 0.75 or 0.5 + 0.625 carries


@pytest.mark.oracle("piecewise_affine")
@torch.no_grad()
def test_the_map_equals_loops():
    torch.manual_seed(0)
    part = PiecewiseAffine(5, 3, bias=True)
    part.bias.normal_()
    x = torch.randn(2, 4, 5)
    for row, y in zip(x.flatten(0, 1), part(x).flatten(0, 1), strict=True):
        for o in range(3):
            want = sum(by_integers(float(w), float(e)) for w, e in zip(part.weight[o], row, strict=True))
            assert y[o].item() == pytest.approx(want + part.bias[o].item(), abs=1e-5)


@torch.no_grad()
def test_the_share_computed_at_once_changes_nothing():
    torch.manual_seed(0)
    x, weight = torch.randn(7, 6), torch.randn(4, 6)
    torch.testing.assert_close(matmul(x, weight, numbers=1), matmul(x, weight), atol=1e-6, rtol=0)


def test_training_holds_no_product_of_all_tokens_and_has_the_same_slopes():
    """A layer of 576 x 1536 and 512 tokens would hold 453 million products of every map."""
    x, weight = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((20, 16), (24, 16)))
    held = {}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.update({t.data_ptr(): t.numel()}) or t, lambda t: t):
        y = matmul(x, weight, numbers=2 * weight.numel())
    assert sum(held.values()) < 8 * (x.numel() + weight.numel()) < len(x) * weight.numel()
    g = torch.randn_like(y)
    want = torch.autograd.grad(product(x[:, None], weight).sum(-1), (x, weight), g)
    for slope, expected in zip(torch.autograd.grad(y, (x, weight), g), want, strict=True):
        torch.testing.assert_close(slope, expected)


@torch.no_grad()
def test_trained_weights_are_taken_as_they_are():
    torch.manual_seed(0)
    dense = torch.nn.Linear(64, 32)
    part, x = PiecewiseAffine.from_weight(dense.weight, dense.bias), torch.randn(50, 64)
    lost = (part(x) - dense(x)).norm() / dense(x).norm()
    assert 0.01 < lost < 1 / 9
    signs = x.sign()
    torch.testing.assert_close(part(signs), dense(signs))
