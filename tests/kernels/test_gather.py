"""Sparse reads of tables: compiled kernel and reference against loops, gradients, and what must not happen."""

import itertools

import pytest
import torch

from layersmith.kernels import gather, native
from layersmith.kernels.gather import best_pairs, rows_dot, rows_sum

needs_kernels = pytest.mark.skipif(not native.loaded(), reason="the compiled kernels could not be built")


def data(dtype=torch.float32, tokens=7, rows=11, width=37, k=5):
    """37 leaves a remainder after every vector length; indices repeat within a token and between tokens."""
    torch.manual_seed(0)
    index = torch.randint(0, rows, (tokens, k))
    index[0] = 3
    return (
        torch.randn(tokens, width, dtype=dtype),
        torch.randn(rows, width, dtype=dtype),
        index,
        torch.randn(tokens, k, dtype=dtype),
    )


def by_loops(x, table, index, weight):
    dots = torch.zeros(index.shape, dtype=torch.double)
    sums = torch.zeros(x.shape, dtype=torch.double)
    spread = torch.zeros(table.shape, dtype=torch.double)
    for n, row in enumerate(index.tolist()):
        for j, e in enumerate(row):
            dots[n, j] = sum(a * b for a, b in zip(table[e].tolist(), x[n].tolist(), strict=True))
            sums[n] += weight[n, j].double() * table[e].double()
            spread[e] += weight[n, j].double() * x[n].double()
    return dots, sums, spread


@pytest.fixture(params=["reference", pytest.param("kernel", marks=needs_kernels)])
def path(request, monkeypatch):
    """Both ways of computing; `reference` also gathers two tokens at a time."""
    if request.param == "reference":
        monkeypatch.setattr(native, "serves", lambda *tensors: False)
        monkeypatch.setattr(gather, "CHUNK", 2 * 5 * 37)
    return request.param


def test_reads_and_their_gradient_by_loops(path):
    x, table, index, weight = data()
    dots, sums, spread = by_loops(x, table, index, weight)
    torch.testing.assert_close(rows_dot(x, table, index).double(), dots, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(rows_sum(weight, table, index).double(), sums, atol=1e-5, rtol=1e-5)
    table.requires_grad_()
    (to_table,) = torch.autograd.grad((rows_dot(x, table, index) * weight).sum(), table)
    torch.testing.assert_close(to_table.double(), spread, atol=1e-5, rtol=1e-5)


@needs_kernels
def test_the_kernel_is_used_and_equals_the_reference(monkeypatch):
    x, table, index, weight = data(tokens=70, rows=300, width=64, k=9)
    scores = torch.randn(3, 2, 40, 50)
    with_kernel = rows_dot(x, table, index), rows_sum(weight, table, index), best_pairs(scores, 9)
    calls = []
    monkeypatch.setattr(native, "serves", lambda *tensors: bool(calls.append(1)))
    without = rows_dot(x, table, index), rows_sum(weight, table, index), best_pairs(scores, 9)
    assert len(calls) == 2, "sums are torch's own"
    for a, b in zip(with_kernel[:2], without[:2], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    assert torch.equal(with_kernel[2], without[2])


def test_gradients_are_true():
    x, table, index, weight = data(torch.double)
    for tensor in (x, table, weight):
        tensor.requires_grad_()
    torch.autograd.gradcheck(lambda a, b: rows_dot(a, b, index), (x, table))
    torch.autograd.gradcheck(lambda a, b: rows_sum(a, b, index), (weight, table))


@pytest.mark.parametrize(("n", "k"), [(1, 1), (5, 3), (5, 25), (16, 16), (40, 7), (256, 16), (33, 40)])
def test_best_pairs_are_those_of_all_pairs(path, n, k):
    torch.manual_seed(1)
    scores = torch.randn(2, 2, 6, n)
    pairs = best_pairs(scores, k)
    assert pairs.shape == (6, 2, k)
    for h, t in itertools.product(range(2), range(6)):
        first, second = scores[h, 0, t].tolist(), scores[h, 1, t].tolist()
        sums = sorted((first[a] + second[b] for a in range(n) for b in range(n)), reverse=True)
        chosen = pairs[t, h].tolist()
        assert len(set(chosen)) == k
        found = [first[p // n] + second[p % n] for p in chosen]
        assert found == pytest.approx(sums[:k], abs=1e-6)


def test_best_pairs_of_equal_scores_are_distinct(path):
    pairs = best_pairs(torch.zeros(1, 2, 3, 12), 10)
    assert all(len(set(row)) == 10 for row in pairs[:, 0].tolist())


@needs_kernels
def test_a_row_outside_the_table_is_refused():
    x, table, index, _ = data()
    index[2, 1] = 11
    with pytest.raises(RuntimeError, match="outside the table"):
        rows_dot(x, table, index)


def test_nothing_to_read(path):
    x, table, index, weight = data()
    assert rows_dot(x[:0], table, index[:0]).shape == (0, 5)
    assert torch.equal(rows_sum(weight[:, :0], table, index[:, :0]), torch.zeros(7, 37))
    assert best_pairs(torch.zeros(2, 2, 0, 4), 3).shape == (0, 2, 3)
