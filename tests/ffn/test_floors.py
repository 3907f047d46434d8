"""The floors and controls: identity, zero, constant, affine, low-rank affine."""

import numpy as np
import pytest
import torch

from layersmith.ffn.affine import Affine
from layersmith.ffn.constant import Constant
from layersmith.ffn.identity import Identity
from layersmith.ffn.low_rank_affine import LowRankAffine
from layersmith.ffn.zero import Zero


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.oracle("identity")
def test_identity_returns_its_input(x):
    assert Identity(6)(x) is x


@pytest.mark.oracle("zero")
def test_zero_is_zero(x):
    y = Zero(6)(x)
    assert y.shape == x.shape
    assert not y.any()


@pytest.mark.oracle("constant")
def test_constant_starts_as_zero_and_is_the_same_for_every_token(x):
    part = Constant(6)
    assert not part(x).any()
    torch.nn.init.normal_(part.value)
    y = part(x)
    assert all(torch.equal(token, part.value) for token in y.reshape(-1, 6))


def test_constant_gradient_is_the_sum_over_tokens(x):
    part = Constant(6)
    grad = torch.randn_like(x)
    part(x).backward(grad)
    torch.testing.assert_close(part.value.grad, grad.sum((0, 1)))


@pytest.mark.oracle("affine")
def test_affine_by_loops(x):
    part = Affine(6).double()
    w, b = part.linear.weight.detach().numpy(), part.linear.bias.detach().numpy()
    for token, y in zip(x.double().reshape(-1, 6), part(x.double()).reshape(-1, 6), strict=True):
        expected = [sum(w[o, i] * token[i].item() for i in range(6)) + b[o] for o in range(6)]
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-12)


def test_affine_without_bias_maps_zero_to_zero():
    assert not Affine(6, bias=False)(torch.zeros(1, 6)).any()


@pytest.mark.oracle("low_rank_affine")
def test_low_rank_affine_of_full_rank_can_be_any_affine_map(x):
    affine, part = Affine(6).double(), LowRankAffine(6, rank=6).double()
    with torch.no_grad():
        part.linear.u.weight.copy_(affine.linear.weight)
        part.linear.v.weight.copy_(torch.eye(6))
        part.linear.u.bias.copy_(affine.linear.bias)
    torch.testing.assert_close(part(x.double()), affine(x.double()))


@pytest.mark.oracle("low_rank_affine")
def test_low_rank_affine_by_loops(x):
    part = LowRankAffine(6, rank=2).double()
    torch.nn.init.normal_(part.linear.u.bias)
    u, v, b = part.linear.u.weight.tolist(), part.linear.v.weight.tolist(), part.linear.u.bias.tolist()
    for token, y in zip(x.double().reshape(-1, 6).tolist(), part(x.double()).reshape(-1, 6), strict=True):
        inner = [sum(v[r][i] * token[i] for i in range(6)) for r in range(2)]
        expected = [sum(u[o][r] * inner[r] for r in range(2)) + b[o] for o in range(6)]
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-12)


def test_low_rank_affine_outputs_span_no_more_than_the_rank():
    y = LowRankAffine(16, rank=3, bias=False).double()(torch.randn(50, 16, dtype=torch.double))
    assert torch.linalg.matrix_rank(y) == 3


@pytest.mark.parametrize("part", [Identity, Zero, Constant, Affine])
@pytest.mark.parametrize("d_model", [0, -1, 2.0, True])
def test_bad_width_is_refused(part, d_model):
    with pytest.raises(ValueError, match=f"{part.__name__}: d_model must be a positive integer"):
        part(d_model)


def test_rank_above_the_width_is_refused():
    with pytest.raises(ValueError, match="rank 7 exceeds"):
        LowRankAffine(6, rank=7)
