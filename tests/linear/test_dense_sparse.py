"""Sparse coefficients of a dense basis against loops, and the two maps that it can be."""

import pytest
import torch

from layersmith.linear.dense_sparse import DenseSparse
from layersmith.linear.low_rank import LowRank


def made(d_in=6, d_out=8, basis=4, k=2, blocks=2, bias=False):
    torch.manual_seed(0)
    part = DenseSparse(d_in, d_out, basis, k, blocks, bias).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    return part


@pytest.mark.oracle("dense_sparse")
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_rows_are_sums_of_vectors_of_their_block(blocks, bias):
    part = made(blocks=blocks, bias=bias)
    x = torch.randn(3, 6).double()
    d, values, places = part.d.tolist(), part.values.tolist(), part.places.tolist()
    for row, found in zip(x.tolist(), part(x).tolist(), strict=True):
        for o in range(8):
            block = o // (8 // blocks)
            expected = part.bias[o].item() if bias else 0.0
            for value, place in zip(values[o], places[o], strict=True):
                expected += value * sum(a * b for a, b in zip(d[block][place], row, strict=True))
            assert found[o] == pytest.approx(expected, rel=1e-10, abs=1e-12)
    offset = part.bias if bias else 0
    torch.testing.assert_close(part(x), x @ part.dense_weight().T + offset)


@pytest.mark.oracle("dense_sparse")
def test_with_the_whole_basis_in_every_row_it_is_low_rank():
    low = LowRank(6, 8, rank=4).double()
    places = torch.arange(4).expand(8, 4)
    part = DenseSparse.from_factors(low.v.weight.detach()[None], low.u.weight.detach(), places)
    x = torch.randn(5, 6).double()
    torch.testing.assert_close(part(x), low(x))


def test_places_of_a_row_are_different_vectors_and_numbers_are_counted_with_them():
    part = DenseSparse(12, 40, basis=10, k=4, blocks=2)
    assert all(len(set(row)) == 4 for row in part.places.tolist())
    cost = part.cost()
    assert cost.params == 2 * 10 * 12 + 40 * 4
    assert cost.weight_bytes == 4 * cost.params + 40 * 4
    assert cost.flops == 2 * (20 * 12 + 40 * 10)


def test_start_has_the_variance_of_a_dense_linear_map():
    torch.manual_seed(0)
    part = DenseSparse(128, 512, basis=64, k=8, blocks=4)
    assert part.dense_weight().var().item() == pytest.approx(1 / (3 * 128), rel=0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"basis": 3, "k": 4}, "k can be 3 at most"),
        ({"basis": 300, "k": 4}, "a place is one byte"),
        ({"basis": 4, "k": 2, "blocks": 3}, "blocks=3 must divide d_out=8"),
    ],
    ids=str,
)
def test_sizes_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DenseSparse(6, 8, **settings)
