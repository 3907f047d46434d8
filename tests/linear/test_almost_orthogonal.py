"""The almost-orthogonal map: by loops, never longer than its input, blind to the size of P, vanishing with depth."""

import pytest
import torch

from layersmith.linear.almost_orthogonal import AlmostOrthogonal


def by_loops(p: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    rows, columns = p.shape
    r = [sum(abs(sum(float(p[o, i] * p[o, j]) for o in range(rows))) for j in range(columns)) for i in range(columns)]
    w = [[float(p[o, i]) * r[i] ** -0.5 for i in range(columns)] for o in range(rows)]
    y = [[sum(a * float(b) for a, b in zip(row, token, strict=True)) for row in w] for token in x]
    return torch.tensor(y, dtype=x.dtype)


@pytest.mark.oracle("almost_orthogonal")
@torch.no_grad()
@pytest.mark.parametrize("sizes", [(5, 3), (3, 5)])
def test_equals_loops(sizes):
    torch.manual_seed(0)
    part = AlmostOrthogonal(*sizes, bias=True).double()
    part.bias.normal_()
    x = torch.randn(4, sizes[0], dtype=torch.float64)
    torch.testing.assert_close(part(x), by_loops(part.weight, x) + part.bias, atol=1e-12, rtol=0)


@pytest.mark.oracle("almost_orthogonal")
@torch.no_grad()
@pytest.mark.parametrize("sizes", [(24, 24), (24, 7), (7, 24)])
def test_it_stretches_nothing(sizes):
    for seed in range(5):
        torch.manual_seed(seed)
        part = AlmostOrthogonal(*sizes).double()
        part.weight.normal_(std=10.0**seed)
        norm = torch.linalg.matrix_norm(part.dense_weight(), 2)
        assert 0.1 < norm <= 1 + 1e-12


@pytest.mark.oracle("almost_orthogonal")
@torch.no_grad()
def test_orthogonal_columns_keep_every_length():
    torch.manual_seed(0)
    part, x = AlmostOrthogonal(8, 12).double(), torch.randn(5, 8, dtype=torch.float64)
    part.weight.copy_(torch.linalg.qr(torch.randn(12, 8, dtype=torch.float64))[0] * torch.arange(1, 9))
    torch.testing.assert_close(part(x).norm(dim=-1), x.norm(dim=-1), atol=1e-12, rtol=0)


@torch.no_grad()
def test_the_size_of_the_starting_weights_changes_nothing_and_a_deep_stack_forgets_its_input():
    sizes = []
    for std in (0.1, 10.0):
        torch.manual_seed(0)
        x = torch.randn(64, 64, dtype=torch.float64)
        for _ in range(20):
            part = AlmostOrthogonal(64, 64).double()
            part.weight.normal_(std=std)
            x = part(x).relu()
        sizes.append(x.var().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-6)
    assert 0 < sizes[0] < 1e-20


def test_a_column_of_zeros_has_a_gradient():
    part = AlmostOrthogonal(3, 3)
    with torch.no_grad():
        part.weight[:, 1] = 0
    part(torch.randn(2, 3)).sum().backward()
    assert torch.isfinite(part.weight.grad).all()
