"""ATLAS against its rule token by token with gradients by autograd, and the delta rule as its limit."""

import math

import pytest
import torch

from layersmith.mixer.atlas import Atlas
from layersmith.mixer.shared.delta_rule import delta_rule_recurrent
from layersmith.mixer.shared.omega import newton_schulz, omega_group


def sigmoid(value):
    return 1 / (1 + math.exp(-float(value)))


def features(m, vector):
    unit = vector / math.sqrt(float(vector @ vector) + 1e-6)
    powers = [unit]
    while len(powers) < len(m.coefficients):
        powers.append(torch.outer(powers[-1], unit).flatten())
    return torch.cat([a * p for a, p in zip(m.coefficients.detach(), powers, strict=True)])


def window_gradient(keys, values, weights, memory):
    """By autograd, of the loss as it is written."""
    memory = memory.clone().requires_grad_()
    with torch.enable_grad():
        loss = sum(w * (k @ memory - v).square().sum() for k, v, w in zip(keys, values, weights, strict=True))
        return torch.autograd.grad(loss, memory)[0]


def by_loops(m: Atlas, x: torch.Tensor) -> torch.Tensor:
    """The rule for one sequence x (T, D), one token at a time."""
    d, group = m.head_dim, m.q.out_features // m.head_dim // m.n_kv_heads
    q, k, v, gates = m.q(x), m.k(x), m.v(x), m.gates(x)
    out = torch.zeros_like(q)
    for h in range(m.n_kv_heads):
        shared = slice(h * d, h * d + d)
        keys = [features(m, row[shared]) for row in k]
        memory = momentum = torch.zeros(len(keys[0]), d, dtype=x.dtype)
        for t in range(len(x)):
            g, eta, theta, alpha = ([sigmoid(row[i * m.n_kv_heads + h]) for row in gates] for i in range(4))
            if t % m.step == 0:
                start = memory
            seen = slice(max(0, t - m.window + 1), t + 1)
            gradient = window_gradient(keys[seen], v[seen, shared], g[seen], start)
            momentum = theta[t] * momentum + gradient
            memory = alpha[t] * memory - eta[t] * (newton_schulz(momentum) if m.muon else momentum)
            for n in range(h * group, (h + 1) * group):
                own = slice(n * d, n * d + d)
                read = features(m, q[t, own]) @ memory
                out[t, own] = m.norm.weight * read / math.sqrt(float(read @ read) / d + m.norm.eps)
    return m.o(out)


@pytest.mark.oracle("atlas")
@torch.no_grad()
@pytest.mark.parametrize(
    "settings",
    [
        {"step": 1, "window": 1},
        {"step": 4, "window": 3},
        {"step": 4, "window": 7, "n_kv_heads": 1, "degree": 2},
        {"step": 5, "window": 2, "muon": False},
    ],
)
def test_equals_the_rule_token_by_token(settings):
    torch.manual_seed(0)
    m = Atlas(8, 2, head_dim=3, **settings).double()
    m.norm.weight.normal_()
    m.coefficients.normal_()
    x = torch.randn(2, 11, 8, dtype=torch.float64)
    want = torch.stack([by_loops(m, row) for row in x])
    torch.testing.assert_close(m(x)[0], want, atol=1e-9, rtol=0)


@pytest.mark.oracle("atlas")
@torch.no_grad()
def test_one_token_one_step_and_no_momentum_is_the_delta_rule():
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 9, 4, dtype=torch.float64)
    beta = torch.rand(1, 2, 9, 1, dtype=torch.float64)
    memory = torch.zeros(1, 2, 4, 4, dtype=torch.float64)
    want, want_memory = delta_rule_recurrent(q, k, v, beta, memory)
    rates = torch.cat((beta / 2, torch.full_like(beta, -torch.inf), 0 * beta, 0 * beta + 1), -1)
    momentum, rows = memory, []
    for t in range(9):
        parts = (q[:, :, None, t : t + 1], k[:, :, t : t + 1], v[:, :, t : t + 1], torch.ones_like(beta[:, :, :1]))
        y, memory, momentum = omega_group(parts, rates[:, :, t : t + 1], memory, momentum, memory, False)
        rows.append(y[:, :, 0])
    torch.testing.assert_close(torch.cat(rows, 2), want, atol=1e-12, rtol=0)
    torch.testing.assert_close(memory, want_memory, atol=1e-12, rtol=0)


def test_newton_schulz_makes_singular_values_alike_and_leaves_zero():
    torch.manual_seed(0)
    for shape in ((5, 3), (3, 5)):
        x = torch.randn(shape)
        values = torch.linalg.svdvals(newton_schulz(x))
        assert values.min() > 0.6
        assert values.max() < 1.3
        u, _, v = torch.linalg.svd(x, full_matrices=False)
        assert (newton_schulz(x) * (u @ v)).sum() > 0.95 * (u @ v).norm() * newton_schulz(x).norm()
    zero = torch.zeros(3, 3, requires_grad=True)
    newton_schulz(zero).sum().backward()
    assert zero.grad.isfinite().all()


def test_reads_the_same_in_inference_mode():
    torch.manual_seed(0)
    m = Atlas(8, 2, step=4)
    x = torch.randn(1, 11, 8)
    with torch.inference_mode():
        y, _ = m(x)
    torch.testing.assert_close(y, m(x)[0].detach(), atol=0, rtol=0)


def test_the_state_does_not_grow():
    m = Atlas(16, 4, n_kv_heads=2, window=3, degree=2)
    per_head = 3 * 20 * 4 + 2 * (20 + 4 + 1)
    assert m.state_bytes(24) == m.state_bytes(1000) == 4 * 2 * per_head + 8


def test_bad_configs_are_refused():
    with pytest.raises(ValueError, match="window must be a positive integer"):
        Atlas(16, 4, window=0)
    with pytest.raises(ValueError, match="degree=4 is more than 3"):
        Atlas(16, 4, degree=4)
