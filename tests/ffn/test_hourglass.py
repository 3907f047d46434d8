"""Hourglass feed-forward: an oracle, the MLP it contains, and its parameter count."""

import math

import pytest
import torch

from layersmith.ffn.glu import GLU
from layersmith.ffn.hourglass import Hourglass
from layersmith.ffn.mlp import MLP

D, NARROW = 6, 4


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 5, D, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(depth: int, **config) -> Hourglass:
    torch.manual_seed(1)
    return Hourglass(D, NARROW, depth, **config).double()


def product(matrix: torch.Tensor, token: list[float]) -> list[float]:
    return [sum(w * v for w, v in zip(row, token, strict=True)) for row in matrix.tolist()]


@pytest.mark.oracle("hourglass")
@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("depth", [1, 3])
def test_by_loops(x, depth, gated):
    m = part(depth, gated=gated, act="silu")
    for token, y in zip(x.reshape(-1, D).tolist(), m(x).reshape(-1, D).tolist(), strict=True):
        h = token
        for step in m.steps:
            middle = product(step.up.weight, h)
            gate = product(step.gate.weight, h) if gated else middle
            silu = [g / (1 + math.exp(-g)) for g in gate]
            middle = [s * v for s, v in zip(silu, middle, strict=True)] if gated else silu
            h = [a + b for a, b in zip(h, product(step.down.weight, middle), strict=True)]
        assert y == pytest.approx([a - b for a, b in zip(h, token, strict=True)], rel=1e-9, abs=1e-12)


@pytest.mark.oracle("hourglass")
@pytest.mark.parametrize(("gated", "dense"), [(False, MLP), (True, GLU)])
def test_depth_one_is_the_mlp_or_the_glu(x, gated, dense):
    m, other = part(1, gated=gated, bias=True), dense(D, NARROW, act="gelu", bias=True).double()
    m.steps[0].load_state_dict(other.state_dict())
    assert torch.equal(m(x), other(x))


@pytest.mark.oracle("hourglass")
def test_steps_that_write_nothing_change_nothing(x):
    deep, shallow = part(3), part(1)
    deep.steps[0].load_state_dict(shallow.steps[0].state_dict())
    for step in deep.steps[1:]:
        torch.nn.init.zeros_(step.down.weight)
    torch.testing.assert_close(deep(x), shallow(x))
    torch.nn.init.zeros_(deep.steps[0].down.weight)
    assert not deep(x).any()  # with the model's residual: the identity


def test_parameters_match_a_dense_budget():
    assert Hourglass(32, 16, 8).cost().params == 2 * 8 * 16 * 32 == MLP(32, 128, bias=False).cost().params


def test_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="depth must be a positive integer"):
        part(0)
