"""Masks against rules written by hand, and the map that has them: its zeros stay, its bits say where they are."""

import itertools

import pytest
import torch

from layersmith import catalogue
from layersmith.linear.shared.masks import largest, pack_bits, patterns, transposable, two_four, unpack_bits
from layersmith.linear.sparse import SparseLinear


def scores(rows=8, columns=12, seed=0):
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def test_largest_keeps_exactly_as_many_and_none_of_the_smaller():
    found = largest(scores(), 17)
    assert int(found.sum()) == 17
    assert scores()[found].min() > scores()[~found].max()
    assert int(largest(torch.ones(4, 4), 5).sum()) == 5, "equal weights are no reason to keep more, or fewer"


def test_two_four_keeps_the_two_largest_of_four_neighbours():
    found = two_four(scores())
    for row, kept in zip(scores().tolist(), found.tolist(), strict=True):
        for first in range(0, 12, 4):
            best = sorted(range(4), key=lambda i: -row[first + i])[:2]
            assert [i for i in range(4) if kept[first + i]] == sorted(best)


def by_hand(block):
    """The best 4 x 4 pattern by going through all 6^4 masks whose rows hold two each."""
    best, found = -1.0, None
    pairs = list(itertools.combinations(range(4), 2))
    for rows in itertools.product(pairs, repeat=4):
        counts = [sum(column in row for row in rows) for column in range(4)]
        total = sum(block[i][j] for i, row in enumerate(rows) for j in row)
        if counts == [2, 2, 2, 2] and total > best:
            best, found = total, [[j in row for j in range(4)] for row in rows]
    return found


def test_transposable_is_the_best_of_all_patterns_and_of_the_transposed_matrix_too():
    assert patterns().shape == (90, 4, 4)
    found = transposable(scores())
    for i, j in itertools.product(range(0, 8, 4), range(0, 12, 4)):
        assert found[i : i + 4, j : j + 4].tolist() == by_hand(scores()[i : i + 4, j : j + 4].tolist())
    assert torch.equal(transposable(scores().T), found.T)
    assert scores()[found].sum() < scores()[two_four(scores())].sum(), "the pattern of both directions costs something"


def test_a_width_that_the_pattern_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="10 inputs does not divide into fours"):
        two_four(torch.ones(4, 10))
    with pytest.raises(ValueError, match="6 outputs and 8 inputs does not divide into fours"):
        transposable(torch.ones(6, 8))
    assert two_four(torch.ones(6, 8)).sum() == 24


@pytest.mark.parametrize("columns", [1, 8, 13])
def test_bits_are_packed_and_found_again(columns):
    mask = scores(3, columns) > 0.5
    packed = pack_bits(mask)
    assert packed.shape == (3, -(-columns // 8))
    for row, stored in zip(mask.tolist(), packed.tolist(), strict=True):
        number = int.from_bytes(bytes(stored), "little")
        assert [bool(number >> i & 1) for i in range(columns)] == row
    assert torch.equal(unpack_bits(packed, columns), mask)


@pytest.mark.oracle("sparse")
@pytest.mark.parametrize("bias", [False, True])
def test_equals_the_masked_matrix_by_loops(bias):
    torch.manual_seed(0)
    weight, mask = torch.randn(5, 11).double(), scores(5, 11) > 0.6
    part = SparseLinear.from_weight(weight, mask, torch.randn(5).double() if bias else None)
    x = torch.randn(3, 11).double()
    for row, found in zip(x.tolist(), part(x).tolist(), strict=True):
        for o in range(5):
            expected = sum(weight[o, i].item() * row[i] for i in range(11) if mask[o, i])
            expected += part.bias[o].item() if bias else 0.0
            assert found[o] == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.oracle("sparse")
def test_with_all_weights_it_is_the_dense_map():
    weight = torch.randn(6, 9)
    part = SparseLinear.from_weight(weight, torch.ones(6, 9, dtype=torch.bool))
    assert torch.equal(part.dense_weight(), weight)


@pytest.mark.oracle("sparse")
def test_zeros_stay_through_training_and_storing():
    torch.manual_seed(0)
    part = SparseLinear.from_weight(torch.randn(6, 16), mask := scores(6, 16) > 0.5)
    optimizer = torch.optim.AdamW(part.parameters(), lr=0.1, weight_decay=0.1)
    before = part.values.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        (part(torch.randn(8, 16)) - 1).square().sum().backward()
        optimizer.step()
    assert (part.values != before).all()
    again = catalogue.build(part.spec())
    again.load_state_dict(part.state_dict())
    assert torch.equal(again.dense_weight(), part.dense_weight())
    assert torch.equal(again.dense_weight() != 0, mask)


def test_a_new_one_has_as_many_weights_as_it_says_and_outputs_as_large_as_a_dense_map():
    torch.manual_seed(0)
    part = SparseLinear(256, 128, kept=4096)
    assert int(part.mask.sum()) == 4096
    assert part(torch.randn(500, 256)).square().mean().item() == pytest.approx(1 / 3, rel=0.1)


def test_bytes_are_those_of_the_values_and_a_bit_each():
    assert SparseLinear(64, 32, kept=1024).cost().weight_bytes == 4 * 1024 + 64 * 32 // 8
    with pytest.raises(ValueError, match="kept=49, and a matrix 6 x 8 has 48 weights"):
        SparseLinear(8, 6, kept=49)
