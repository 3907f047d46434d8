"""Whole numbers with a power of two for each block: by loops, blocks of one and of all, integer products, storage."""

import math

import pytest
import torch

from layersmith import catalogue
from layersmith.linear.block_shift import BlockShift, rounded


def grid(values, bits):
    """A block by hand: codes and the exponent of the smallest power of two that holds it."""
    top, largest = 2 ** (bits - 1) - 1, max(abs(v) for v in values)
    shift = math.ceil(math.log2(largest / top)) if largest else 0
    return [round(v / 2.0**shift) for v in values], shift


def by_loops(weight, bits, block):
    w = weight.double()
    found = torch.zeros_like(w)
    for i in range(0, len(w), block):
        for j in range(0, w.shape[1], block):
            tile = w[i : i + block, j : j + block]
            codes, shift = grid(tile.flatten().tolist(), bits)
            found[i : i + block, j : j + block] = torch.tensor(codes, dtype=torch.float64).view_as(tile) * 2.0**shift
    return found


@pytest.mark.oracle("block_shift")
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("block", [1, 5, 8, 100])
def test_rounding_by_loops(bits, block):
    torch.manual_seed(0)
    weight = torch.randn(13, 24) * torch.logspace(-2, 2, 13)[:, None]
    part = BlockShift.from_weight(weight, bits, block)
    assert torch.equal(part.dense_weight().double(), by_loops(weight, bits, block))
    assert part.shift.shape == (-(-13 // block), -(-24 // block))


@pytest.mark.oracle("block_shift")
def test_products_are_those_of_whole_numbers_moved_by_their_shifts():
    torch.manual_seed(0)
    weight, x, bias = torch.randn(6, 20), torch.randn(3, 20) * 5, torch.randn(6)
    part = BlockShift.from_weight(weight, 4, 8, bias)
    expected = torch.zeros(3, 6, dtype=torch.float64)
    for t, row in enumerate(x.tolist()):
        for o in range(6):
            for start in range(0, 20, 8):
                q, s = grid(row[start : start + 8], 8)
                _, shift = grid(weight[:, start : start + 8].flatten().tolist(), 4)  # 6 rows are within one block
                codes = [round(v / 2.0**shift) for v in weight[o, start : start + 8].tolist()]
                expected[t, o] += sum(a * b for a, b in zip(q, codes, strict=True)) * 2.0 ** (s + shift)
    with torch.no_grad():
        got = part(x)
    torch.testing.assert_close(got.double(), expected + bias.double(), rtol=1e-6, atol=1e-5)


def test_one_block_is_one_scale_and_smaller_blocks_bear_outliers_better():
    torch.manual_seed(0)
    weight = torch.randn(64, 64)
    weight[3, 5] = 200.0
    errors = [(BlockShift.from_weight(weight, 8, b).dense_weight() - weight).norm().item() for b in (1, 8, 32, 64)]
    assert errors == sorted(errors)
    assert errors[0] < 0.1 * errors[-1]
    whole = BlockShift.from_weight(weight, 8, 1000)
    assert whole.shift.tolist() == [[1]]  # 200 / 127 needs steps of 2
    assert torch.equal(whole.dense_weight(), (weight / 2).round() * 2)


def test_powers_of_two_at_the_top_are_not_given_a_step_too_much():
    for largest, shift in ((127.0, 0), (127.1, 1), (254.0, 1), (63.5, -1)):
        part = BlockShift.from_weight(torch.tensor([[largest, 1.0]]), 8, 2)
        assert part.shift.tolist() == [[shift]]


def test_tokens_do_not_share_scales_and_what_is_not_finite_shows():
    torch.manual_seed(0)
    x = torch.randn(4, 20)
    x[1] *= 1e4
    assert torch.equal(rounded(x, 8), torch.stack([rounded(row, 8) for row in x]))
    part = BlockShift(20, 3)
    x[2, 0] = float("inf")
    finite = torch.isfinite(part(x)).all(1)
    assert finite.tolist() == [True, True, False, True]


def test_gradient_storage_and_round_trip():
    part = BlockShift.from_weight(torch.randn(48, 64), 4, 16, torch.randn(48))
    x = torch.randn(5, 64, requires_grad=True)
    part(x).sum().backward()
    torch.testing.assert_close(x.grad, part.dense_weight().sum(0).expand(5, 64))
    assert part.cost().weight_bytes == 48 * 64 // 2 + 3 * 4 + 48 * 4
    before = part.dense_weight()
    assert torch.equal(part.to(torch.bfloat16).dense_weight(), before)
    part.float()
    rebuilt = catalogue.build(part.spec())
    rebuilt.load_state_dict(part.state_dict())
    assert torch.equal(rebuilt(x), part(x))


def test_zeros_and_bad_settings():
    assert not BlockShift.from_weight(torch.zeros(4, 8)).dense_weight().any()
    with pytest.raises(ValueError, match=r"\[4, 8\], not 3"):
        BlockShift(8, 4, bits=3)
    with pytest.raises(ValueError, match="block"):
        BlockShift(8, 4, block=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        BlockShift.from_weight(torch.full((2, 4), float("nan")))
