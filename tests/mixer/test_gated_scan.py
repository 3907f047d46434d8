"""The gated scan against the recurrence token by token in float64, its limits, and decays as strong as they get."""

import pytest
import torch

from layersmith.mixer.shared.chunked import additive_scan
from layersmith.mixer.shared.gated import decay_matrix, gated_scan, sums_after


def by_loops(q, k, v, log_decay, state):
    """The equation, one token at a time; everything with all its leading dimensions."""
    outputs = []
    for t in range(q.shape[-2]):
        decay = log_decay[..., t, :].exp()[..., :, None]
        state = decay * state + k[..., t, :, None] * v[..., t, None, :]
        outputs.append((q[..., t, :, None] * state).sum(-2))
    return torch.stack(outputs, -2), state


def random_inputs(tokens, features, strength=1.0, dtype=torch.float64):
    """q, k (2, 3, T, 5), v (2, 3, T, 4), log_decay (2, 3, T, features), state (2, 3, 5, 4)."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 3, tokens, 5, dtype=dtype)
    v = torch.randn(2, 3, tokens, 4, dtype=dtype)
    log_decay = -strength * torch.rand(2, 3, tokens, features, dtype=dtype)
    return q, k, v, log_decay, torch.randn(2, 3, 5, 4, dtype=dtype)


def close(ours, want, bound=1e-11):
    for a, b in zip(ours, want, strict=True):
        torch.testing.assert_close(a, b, atol=bound, rtol=0)


@pytest.mark.parametrize("features", [1, 5])
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 61])
@pytest.mark.parametrize("size", [1, 3, 8, 100])
def test_equals_the_recurrence(tokens, size, features):
    parts = random_inputs(tokens, features)
    close(gated_scan(*parts, size), by_loops(*parts))


@pytest.mark.parametrize("features", [1, 5])
def test_no_token_leaves_the_state(features):
    q, k, v, log_decay, state = random_inputs(0, features)
    y, after = gated_scan(q, k, v, log_decay, state, 8)
    assert y.shape == (2, 3, 0, 4)
    assert after is state


@pytest.mark.parametrize("features", [1, 5])
@pytest.mark.parametrize("strength", [30.0, 1e4])
def test_strong_decays_over_long_chunks_are_exact_in_float32(strength, features):
    """Between the strong decays stand weak ones: a difference of sums would have lost them to rounding."""
    parts = random_inputs(256, features, dtype=torch.float32)
    parts[3][:, :, ::7] *= strength
    ours = gated_scan(*parts, 256)
    want = by_loops(*(part.double() for part in parts))
    close((part.double() for part in ours), want, 5e-5)


@pytest.mark.parametrize("features", [1, 5])
def test_minus_infinity_empties_the_state(features):
    parts = random_inputs(20, features)
    parts[3][:, :, 11] = -torch.inf
    ours = gated_scan(*parts, 8)
    close(ours, by_loops(*parts))
    fresh = gated_scan(*(part[:, :, 11:] for part in parts[:4]), torch.zeros_like(parts[4]), 8)
    close((ours[0][:, :, 11:], ours[1]), fresh)


@pytest.mark.parametrize("features", [1, 5])
def test_no_decay_is_the_additive_scan(features):
    q, k, v, log_decay, state = random_inputs(21, features)
    close(gated_scan(q, k, v, 0 * log_decay, state, 8), additive_scan(q, k, v, state, 8))


def test_equal_decays_of_all_features_are_one_decay():
    q, k, v, log_decay, state = random_inputs(21, 1)
    close(
        gated_scan(q, k, v, log_decay, state, 8),
        gated_scan(q, k, v, log_decay.expand(2, 3, 21, 5), state, 8),
    )


@pytest.mark.parametrize("features", [1, 5])
def test_gradients_equal_those_of_the_recurrence(features):
    parts = random_inputs(23, features, strength=3.0)
    for part in parts:
        part.requires_grad_()
    grads = []
    for y, state in (gated_scan(*parts, 8), by_loops(*parts)):
        grads.append(torch.autograd.grad(y.square().sum() + state.sum(), parts))
    close(*grads, 1e-9)


@pytest.mark.parametrize("features", [1, 5])
def test_queries_may_share_keys_and_decays_may_be_their_own(features):
    """Query groups over shared keys and one state; and, with a decay per query head, a state per query head."""
    _, k, v, log_decay, state = random_inputs(13, features)
    q = torch.randn(2, 3, 4, 13, 5, dtype=torch.float64)
    shared = gated_scan(q, *(part.unsqueeze(2) for part in (k, v, log_decay, state)), 4)
    assert shared[1].shape == (2, 3, 1, 5, 4)
    own = log_decay.unsqueeze(2) * torch.tensor([1.0, 1.0, 2.0, 3.0], dtype=torch.float64)[:, None, None]
    wide = gated_scan(q, k.unsqueeze(2), v.unsqueeze(2), own, state.unsqueeze(2).expand(2, 3, 4, 5, 4), 4)
    for g in range(4):
        want = by_loops(q[:, :, g], k, v, own[:, :, g], state)
        close((wide[0][:, :, g], wide[1][:, :, g]), want)
        if g < 2:
            close((shared[0][:, :, g], shared[1][:, :, 0]), want)


def test_a_pad_leaves_no_trace():
    q, k, v, log_decay, state = random_inputs(10, 5)
    real = torch.ones(10, dtype=torch.bool)
    real[[2, 3, 7]] = False
    blank = real[:, None].double()
    y, after = gated_scan(q, k * blank, v, log_decay * blank, state, 4)
    want, want_after = gated_scan(*(part[:, :, real] for part in (q, k, v, log_decay)), state, 4)
    close((y[:, :, real], after), (want, want_after))


def test_sums_by_hand():
    log_decay = torch.tensor([[-1.0], [-2.0], [-4.0]])
    assert sums_after(log_decay).flatten().tolist() == [-6.0, -4.0, 0.0]
    want = torch.tensor([[0.0, -torch.inf, -torch.inf], [-2.0, 0.0, -torch.inf], [-6.0, -4.0, 0.0]]).exp()
    torch.testing.assert_close(decay_matrix(log_decay), want, atol=0, rtol=0)
