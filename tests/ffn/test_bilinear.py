"""The bilinear layer as a third-order tensor."""

import numpy as np
import pytest
import torch

from layersmith.ffn.bilinear import Bilinear


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(bias: bool) -> Bilinear:
    torch.manual_seed(3)
    return Bilinear(5, 7, bias=bias).double()


@pytest.mark.oracle("bilinear")
def test_by_loops_over_the_third_order_tensor(x):
    m = part(bias=False)
    gate, up, down = (w.detach().numpy() for w in (m.gate.weight, m.up.weight, m.down.weight))
    for token, y in zip(x.numpy(), m(x).detach().numpy(), strict=True):
        for c in range(5):
            expected = sum(
                down[c, h] * gate[h, a] * up[h, b] * token[a] * token[b]
                for h in range(7)
                for a in range(5)
                for b in range(5)
            )
            assert y[c] == pytest.approx(expected, rel=1e-10)


@pytest.mark.oracle("bilinear")
@pytest.mark.parametrize("bias", [False, True])
def test_interaction_matrix_gives_the_output_along_a_direction(x, bias):
    m, direction = part(bias), torch.randn(5, dtype=torch.double)
    q = m.interaction(direction)
    extended = torch.cat([x, torch.ones(4, 1, dtype=torch.double)], 1) if bias else x
    torch.testing.assert_close(q, q.T)
    torch.testing.assert_close(torch.einsum("ta,ab,tb->t", extended, q, extended), m(x) @ direction)


def test_eigenvectors_decompose_the_output(x):
    m, direction = part(bias=False), torch.randn(5, dtype=torch.double)
    values, vectors = np.linalg.eigh(m.interaction(direction).detach().numpy())
    for token, y in zip(x.numpy(), (m(x) @ direction).tolist(), strict=True):
        contributions = [values[i] * (vectors[:, i] @ token) ** 2 for i in range(5)]
        assert sum(contributions) == pytest.approx(y, rel=1e-9)


def test_without_bias_it_is_an_even_function(x):
    assert torch.equal(part(bias=False)(x), part(bias=False)(-x))
