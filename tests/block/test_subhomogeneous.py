"""Subhomogeneous: one fixed point from any start, the rate, the counter-example of mixed signs, and gradients."""

import pytest
import torch

from layersmith.block.subhomogeneous import DEGREE
from layersmith.errors import UserError
from tests.block.small import block, tokens


def part(**config):
    return block("subhomogeneous", d_state=6, **{"steps": 30, **config})


def given(built, x):
    return torch.nn.functional.softplus(built.read(x))


@pytest.mark.oracle("subhomogeneous")
@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.5, 1.0, 3.0])
def test_every_start_leads_to_the_output_at_the_rate(alpha):
    built, x = part(alpha=alpha, steps=60), tokens()
    with torch.no_grad():
        built.w.mul_(5)
    constant = given(built, x)
    starts = torch.rand(100, *constant.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0)) * 20 + 1e-3
    z, gap = starts, None
    for _ in range(60):
        z = built.once(z, constant)
        last, gap = gap, (z.log() - z[:1].log()).abs().amax()
        if last is not None and last > 1e-10:
            assert gap <= alpha * DEGREE * last * (1 + 1e-6)
    torch.testing.assert_close(z, z[:1].expand_as(z), atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(built(x)[0], x + z[0].log() @ built.write.weight.T)


def test_the_degree_is_the_largest_slope_of_logs():
    t = torch.linspace(0, 10, 100_001, dtype=torch.float64)
    assert pytest.approx((t * (1 - t.tanh() ** 2) / (t.tanh() + 1.2)).max().item(), abs=5e-4) == DEGREE


def test_with_mixed_signs_there_is_more_than_one_fixed_point():
    """Why weights are taken by their size: the block's map from these weights has one."""
    w = torch.tensor([[2.0, -2.0], [-2.0, 2.0]], dtype=torch.float64)
    ends = []
    for matrix in (w, w.abs()):
        z = torch.tensor([[5.0, 0.1], [0.1, 5.0]], dtype=torch.float64)
        for _ in range(500):
            z = (z @ matrix.T).tanh() + 1.2
        ends.append((z[0] - z[1]).abs().max().item())
    assert ends[0] > 1
    assert ends[1] < 1e-12


@pytest.mark.oracle("subhomogeneous")
def test_gradients_are_those_of_many_steps():
    built, x = part(), tokens(3).requires_grad_()
    leaves = [x, *built.parameters()]
    found = torch.autograd.grad(built(x)[0].square().sum(), leaves)
    z, constant = torch.ones(2, 3, 6, dtype=x.dtype), given(built, x)
    for _ in range(100):
        z = built.once(z, constant)
    for a, b in zip(found, torch.autograd.grad((x + built.write(z.log())).square().sum(), leaves), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


def test_what_does_not_contract_is_refused():
    for alpha in (0.0, 4.2):
        with pytest.raises(UserError, match="alpha"):
            part(alpha=alpha)
