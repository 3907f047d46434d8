"""Mix-shift against loops over places, with nothing to shift, and how far it sees."""

import pytest
import torch

from layersmith.mixer.mix_shift import MixShift


def build(shifts, kernels, d_model=6, grid=(5, 4)):
    torch.manual_seed(0)
    return MixShift(d_model, list(grid), shifts=shifts, kernels=kernels).double()


@pytest.mark.oracle("mix_shift")
@torch.no_grad()
def test_by_loops():
    shifts, kernels = [-2, 0, 1], [1, 3, 5]
    m, x = build(shifts, kernels), torch.randn(1, 20, 6, dtype=torch.float64)
    field, mixed = x[0].reshape(5, 4, 6), torch.zeros(5, 4, 6, dtype=torch.float64)
    for c in range(6):
        g = c // 2
        along, down, reach = m.along_rows[g], m.down_columns[g], kernels[g] // 2
        for i in range(5):
            for j in range(4):
                total = along.bias[c % 2] + down.bias[c % 2]
                for a in range(-reach, reach + 1):
                    for b in range(-reach, reach + 1):
                        if 0 <= i + a < 5 and 0 <= j + b < 4:
                            weight = along.weight[c % 2, 0, a + reach, b + reach]
                            total = total + weight * field[i + a, (j + b - shifts[g]) % 4, c]
                            weight = down.weight[c % 2, 0, a + reach, b + reach]
                            total = total + weight * field[(i + a - shifts[g]) % 5, j + b, c]
                mixed[i, j, c] = total
    torch.testing.assert_close(m(x)[0][0], m.o(mixed.reshape(20, 6)), atol=1e-12, rtol=0)


@pytest.mark.oracle("mix_shift")
@torch.no_grad()
def test_single_places_that_stay_where_they_are_mix_no_tokens():
    m, x = build([0, 0], [1, 1]), torch.randn(1, 20, 6, dtype=torch.float64)
    moved = x.clone()
    moved[0, 7] += 1
    changed = (m(moved)[0] - m(x)[0]).abs().amax((0, 2)) > 1e-12
    assert changed.nonzero().flatten().tolist() == [7]


@torch.no_grad()
@pytest.mark.parametrize("shift", [1, 2])
def test_what_is_seen_is_as_far_away_as_the_shift(shift):
    m, x = build([shift], [1], d_model=2), torch.zeros(1, 20, 2, dtype=torch.float64)
    moved = x.clone()
    moved[0, 5] += 1  # row 1, column 1
    changed = (m(moved)[0] - m(x)[0]).abs().amax((0, 2)) > 1e-12
    assert changed.nonzero().flatten().tolist() == sorted([4 + (1 + shift) % 4, (1 + shift) * 4 + 1])


@pytest.mark.parametrize(
    ("shifts", "kernels", "word"),
    [([0], [2], "odd"), ([0, 1], [1], "one shift"), ([], [], "one shift"), ([0.5], [1], "whole")],
)
def test_groups_that_do_not_fit_are_refused(shifts, kernels, word):
    with pytest.raises(ValueError, match=word):
        build(shifts, kernels)
