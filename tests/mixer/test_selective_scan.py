"""The selective scan against the recurrence token by token in float64, and steps as large as they get."""

import pytest
import torch

from layersmith.mixer.shared.selective import selective_scan, step_bias


def by_loops(u, dt, a, b, c, state):
    outputs = []
    for t in range(u.shape[1]):
        state = (dt[:, t, None, :] * a).exp() * state + (dt * u)[:, t, None, :] * b[:, t, :, None]
        outputs.append((state * c[:, t, :, None]).sum(1))
    return torch.stack(outputs, 1), state


def random_inputs(tokens, strength=1.0, dtype=torch.float64):
    """u, dt (2, T, 5), a (3, 5), b, c (2, T, 3), state (2, 3, 5)."""
    torch.manual_seed(0)
    u, b, c = torch.randn(2, tokens, 5), torch.randn(2, tokens, 3), torch.randn(2, tokens, 3)
    parts = (u, strength * torch.rand(2, tokens, 5), -3 * torch.rand(3, 5), b, c, torch.randn(2, 3, 5))
    return [part.to(dtype) for part in parts]


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 61])
@pytest.mark.parametrize("size", [1, 8, 100])
def test_equals_loops(tokens, size):
    parts = random_inputs(tokens)
    for ours, want in zip(selective_scan(*parts, size=size), by_loops(*parts), strict=True):
        torch.testing.assert_close(ours, want, atol=1e-12, rtol=0)


def test_gradients_equal_those_of_loops():
    parts = [part.requires_grad_() for part in random_inputs(19)]
    gradients = []
    for y, state in (selective_scan(*parts, size=4), by_loops(*parts)):
        gradients.append(torch.autograd.grad(y.square().sum() + state.sum(), parts))
    for ours, want in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, want, atol=1e-10, rtol=0)


@pytest.mark.parametrize("strength", [1e-4, 1.0, 1e3])
def test_float32_stays_close_however_large_the_steps(strength):
    """A step of 1,000 empties the state; nothing overflows, and what follows is as exact as ever."""
    y, state = selective_scan(*random_inputs(400, strength, torch.float32), size=32)
    want, want_state = by_loops(*random_inputs(400, strength))
    assert y.isfinite().all()
    assert state.isfinite().all()
    assert (y - want).abs().max() < 1e-5 * want.abs().max()
    assert (state - want_state).abs().max() < 1e-5 * want_state.abs().max()


def test_gradients_are_finite_where_the_decay_underflows():
    parts = [part.requires_grad_() for part in random_inputs(40, 1e3, torch.float32)]
    y, state = selective_scan(*parts, size=8)
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum() + state.sum(), parts))


def test_a_token_without_a_step_is_skipped():
    u, dt, a, b, c, state = random_inputs(20)
    dt[:, 13:] = 0
    last = selective_scan(u, dt, a, b, c, state, size=8)[1]
    want = by_loops(u[:, :13], dt[:, :13], a, b[:, :13], c[:, :13], state)[1]
    torch.testing.assert_close(last, want, atol=1e-12, rtol=0)


def test_first_steps_lie_where_they_should():
    torch.manual_seed(0)
    dt = torch.nn.functional.softplus(step_bias(2000))
    assert 0.00099 < dt.min() < 0.002
    assert 0.09 < dt.max() < 0.1001
    assert abs(dt.log().mean() - torch.tensor([1e-3, 0.1]).log().mean()) < 0.1  # uniform in the logarithm
