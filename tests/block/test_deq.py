"""Deep equilibrium: its output is a fixed point, its gradients are those of many turns, its memory that of one."""

import pytest
import torch

from layersmith.block.shared.fixed_point import anderson, damped
from layersmith.errors import UserError
from tests.block.small import LAYER, NORM, OTHER, block, tokens


def deq(**config):
    return block("deq", layers=[LAYER, OTHER], norm=NORM, **{"steps": 40, "tolerance": 1e-11, **config})


def unrolled(part, x, turns=150):
    """z after plain turns, with gradients through all of them."""
    given = part.input_norm(x)
    z = torch.zeros_like(given)
    for _ in range(turns):
        z, _ = part.once(z, given, None, None)
    return z


@pytest.mark.oracle("deq")
@pytest.mark.parametrize("solver", ["anderson", "damped"])
def test_outputs_and_gradients_are_those_of_many_turns(solver):
    part, x = deq(solver=solver, steps=40 if solver == "anderson" else 200), tokens(5).requires_grad_()
    direction = torch.randn(2, 5, 8, dtype=x.dtype)
    y = part(x)[0]
    assert part.residual(x.detach()) < 1e-8
    leaves = [x, *part.parameters()]
    found = torch.autograd.grad((y * direction).sum(), leaves)
    want_y = unrolled(part, x)
    torch.testing.assert_close(y, want_y, atol=1e-7, rtol=0)
    for a, b in zip(found, torch.autograd.grad((want_y * direction).sum(), leaves), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_a_loop_with_injection_and_norms_comes_to_the_same_point():
    """The residual falls with the turns, and the block is where they lead."""
    part, x = deq(), tokens()
    gaps = [(unrolled(part, x, turns) - part(x)[0]).abs().max() for turns in (2, 8, 32)]
    assert gaps[0] > 2 * gaps[1]
    assert gaps[1] > 50 * gaps[2]


def test_memory_does_not_grow_with_the_steps():
    def kept(steps):
        sizes = []
        part = deq(steps=steps, tolerance=0.0)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            part(tokens().requires_grad_())
        return sum(sizes)

    assert kept(4) == kept(30) > 0


def test_anderson_needs_fewer_steps_than_turns_do():
    """On a linear map of contraction 0.95, against the solution of the linear system."""
    torch.manual_seed(0)
    q, _ = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))
    a = q @ torch.diag(torch.tensor([0.95, -0.9, 0.5, 0.1], dtype=torch.float64)) @ q.T
    b = torch.randn(3, 4, dtype=torch.float64)
    want = torch.linalg.solve(torch.eye(4, dtype=torch.float64) - a, b.T).T

    def f(z):
        return z @ a.T + b

    errors = [(solve(f, torch.zeros_like(b), 12, 0.0) - want).abs().max() for solve in (anderson, damped)]
    assert errors[0] < 1e-6
    assert errors[1] > 1e-2
    stays = damped(f, torch.zeros_like(b), 2000, 1e-12, damping=0.5)
    torch.testing.assert_close(stays, want)


def test_iteration_stops_when_nothing_moves():
    calls = []

    def f(z):
        calls.append(1)
        return z / 2

    damped(f, torch.ones(2, 3), 100, 1.0)
    assert len(calls) == 1
    anderson(lambda z: f(z) + 1, torch.ones(2, 3), 100, 1e-6)
    assert len(calls) < 8


@pytest.mark.parametrize("change", [{"solver": "newton"}, {"tolerance": -1.0}, {"damping": 1.0}, {"steps": 0}], ids=str)
def test_settings_without_meaning_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change))):
        deq(**change)
