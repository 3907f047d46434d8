"""Sparse coefficients of a basis: pursuit against loops, exact limits, and low rank at equal stored numbers."""

import numpy as np
import pytest
import torch

from layersmith.linear.low_rank import LowRank
from layersmith.refitting import methods
from layersmith.refitting.methods.fits.dense_sparse import factored, fitted, pursuit, refitted, sizes_for
from layersmith.refitting.methods.fits.low_rank import decomposed, truncated


def rows_and_basis(n=9, basis=6, m=5):
    torch.manual_seed(0)
    d = torch.nn.functional.normalize(torch.randn(basis, m).double(), dim=1)
    return torch.randn(n, m).double(), d


def test_pursuit_takes_vector_after_vector_and_fits_all_anew():
    rows, d = rows_and_basis()
    values, places = pursuit(rows, d, k=3)
    basis = d.numpy()
    for row, value, place in zip(rows.numpy(), values.numpy(), places.tolist(), strict=True):
        taken: list[int] = []
        left = row
        for _ in range(3):
            nearness = [-1.0 if i in taken else abs(basis[i] @ left) for i in range(len(basis))]
            taken.append(int(np.argmax(nearness)))
            best = np.linalg.lstsq(basis[taken].T, row, rcond=None)[0]
            left = row - best @ basis[taken]
        assert place == taken
        np.testing.assert_allclose(value, best, rtol=1e-6)


def test_the_basis_is_refitted_by_least_squares_and_an_idle_vector_becomes_the_worst_row():
    rows, d = rows_and_basis(n=12)
    values, places = pursuit(rows, d[:5], k=2)  # nobody uses the sixth
    codes = np.zeros((12, 5))
    for row in range(12):
        codes[row, places[row].tolist()] = values[row].tolist()
    assert (abs(codes).max(0) > 0).all()
    best = np.linalg.lstsq(codes, rows.numpy(), rcond=None)[0]
    found = refitted(rows, values, places, d)
    np.testing.assert_allclose(found[:5].numpy(), best, rtol=1e-5, atol=1e-7)
    worst = np.linalg.norm(rows.numpy() - codes @ best, axis=1).argmax()
    assert torch.equal(found[5], rows[worst])


def test_a_matrix_that_is_such_a_product_is_found_and_a_whole_basis_is_exact():
    torch.manual_seed(0)
    rows = torch.randn(10, 6).double()
    d, values, places = factored(rows, basis=6, k=6)
    codes = torch.zeros(10, 6).double().scatter(1, places, values)
    torch.testing.assert_close(codes @ d, rows, rtol=1e-6, atol=1e-6)
    one_vector_each = torch.randn(40, 1).double() * torch.eye(6).double()[torch.arange(40) % 6]
    d, values, places = factored(one_vector_each, basis=6, k=1)
    codes = torch.zeros(40, 6).double().scatter(1, places, values)
    torch.testing.assert_close(codes @ d, one_vector_each, rtol=1e-6, atol=1e-6)


def gram(width=32):
    torch.manual_seed(0)
    x = torch.randn(600, 12).double() @ torch.randn(12, width).double() + 0.3 * torch.randn(600, width).double()
    return x.T @ x / len(x)


def test_with_k_the_whole_basis_it_is_the_best_low_rank_in_the_metric_of_the_inputs():
    torch.manual_seed(1)
    weight, second = torch.randn(20, 32).double(), gram()
    part = fitted(weight, second, basis=4, k=4, blocks=1)
    up, down = truncated(decomposed(weight, second), rank=4)
    ours, best = (weight - part.dense_weight().detach(), weight - up.double() @ down.double())
    assert float((ours @ second * ours).sum()) == pytest.approx(float((best @ second * best).sum()), rel=1e-4)


def test_rows_of_many_kinds_are_closer_than_low_rank_at_equal_stored_numbers():
    """Rows that are mixtures of 2 of 24 vectors: low rank has to serve them all with one small subspace."""
    torch.manual_seed(0)
    basis = torch.randn(24, 32).double()
    weight = torch.stack([basis[torch.randperm(24)[:2]].T @ torch.randn(2).double() for _ in range(96)])
    part = fitted(weight, torch.eye(32).double(), basis=24, k=3, blocks=1)
    numbers = 24 * 32 + 96 * 3 * 1.25
    rank = int(numbers / (32 + 96))
    low = LowRank.from_weight(weight, rank + 1).dense_weight()  # one more than its share
    assert (part.dense_weight() - weight).norm() < 0.7 * (low - weight).norm()


@pytest.mark.parametrize(("keep", "d_out", "d_in"), [(0.75, 192, 64), (0.5, 64, 192), (0.5, 16, 32), (0.5, 1536, 576)])
def test_sizes_keep_to_their_share_places_counted(keep, d_out, d_in):
    basis, k, blocks = sizes_for(keep, d_out, d_in)
    stored = blocks * basis * d_in + d_out * k * 1.25
    assert 0.6 * keep * d_out * d_in < stored <= keep * d_out * d_in
    assert k <= basis < d_out // blocks
    assert d_out % blocks == 0


def test_a_matrix_too_small_for_any_split_is_left_as_it_is():
    assert sizes_for(0.5, 2, 3) is None


def test_errors_fall_with_what_is_stored(view):
    at = view("layers.1.ffn")
    errors = [at.local_error(methods.get("dense_sparse").build(at, {"keep": keep})) for keep in (0.3, 0.5, 0.75, 1.2)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]
