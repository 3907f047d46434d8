"""Pattention by loops, its limit as a plain GELU feed-forward, and growth that changes nothing."""

import math

import pytest
import torch

from layersmith import catalogue
from layersmith.ffn.mlp import MLP
from layersmith.ffn.pattention import THETAS, Pattention


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(3, 5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(0))


def part(**config) -> Pattention:
    torch.manual_seed(1)
    return Pattention(**{"d_model": 6, "n_tokens": 10, **config}).double()


def gelu(v: float) -> float:
    return v * (1 + math.erf(v / math.sqrt(2))) / 2


def by_loops(m: Pattention, token: list[float]) -> list[float]:
    a = [sum(k * v for k, v in zip(key, token, strict=True)) for key in m.keys.tolist()]
    if m.theta == "softmax":
        s = [math.exp(v) for v in a]
        s = [v * m.tau**2 / sum(s) for v in s]
    elif m.theta == "gelu_l2_norm":
        g = [gelu(v) for v in a]
        s = [m.tau * v / math.sqrt(sum(w * w for w in g)) for v in g]
    else:
        s = [gelu(m.tau * v / math.sqrt(sum(w * w for w in a))) for v in a]
    return [sum(s_i * row[d] for s_i, row in zip(s, m.values.tolist(), strict=True)) for d in range(len(token))]


@pytest.mark.oracle("pattention")
@pytest.mark.parametrize("theta", THETAS)
@pytest.mark.parametrize("tau", [None, 1.7])
def test_by_loops(x, theta, tau):
    m = part(theta=theta, tau=tau)
    assert m.tau == (math.sqrt(10) if tau is None else tau)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        assert y == pytest.approx(by_loops(m, token), rel=1e-9)


@pytest.mark.oracle("pattention")
def test_scores_of_norm_tau_make_it_the_gelu_mlp():
    """Orthonormal keys keep the length of a token, so tokens of length tau are not rescaled at all."""
    m, mlp = part(n_tokens=6, tau=2.5), MLP(6, 6, act="gelu", bias=False).double()
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.double)).Q
    with torch.no_grad():
        m.keys.copy_(turn)
        mlp.up.weight.copy_(turn)
        mlp.down.weight.copy_(m.values.T)
    x = 2.5 * torch.nn.functional.normalize(torch.randn(4, 6, dtype=torch.double), dim=-1)
    torch.testing.assert_close(m(x), mlp(x))


@pytest.mark.oracle("pattention")
@pytest.mark.parametrize("theta", ["l2_norm_gelu", "gelu_l2_norm"])
def test_growing_by_zero_keys_changes_nothing(x, theta):
    m = part(theta=theta)
    more = m.grown(16)
    torch.testing.assert_close(more(x), m(x))
    rebuilt = catalogue.build(more.spec()).double()
    rebuilt.load_state_dict(more.state_dict())
    torch.testing.assert_close(rebuilt(x), m(x))
    more.tau = 4.0  # sqrt(16), what the new number of tokens would suggest
    assert (more(x) - m(x)).abs().max() > 0.01


def test_new_tokens_learn(x):
    more = part().grown(16)
    target = torch.randn(3, 5, 6, dtype=torch.double, generator=torch.Generator().manual_seed(5))
    before = (more(x) - target).square().mean()
    optimizer = torch.optim.Adam(more.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        (more(x) - target).square().mean().backward()
        optimizer.step()
    assert more.keys[10:].abs().min() > 0
    assert (more(x) - target).square().mean() < 0.5 * before


def test_a_token_of_zeros_gives_zeros():
    m = part()
    zeros = torch.zeros(2, 6, dtype=torch.double, requires_grad=True)
    y = m(zeros)
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(y))
    assert torch.isfinite(zeros.grad).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: part(theta="relu"), "theta must be one of l2_norm_gelu"),
        (lambda: part(tau=0.0), "tau must be positive"),
        (lambda: part(n_tokens=0), "n_tokens must be a positive integer"),
        (lambda: part(theta="softmax").grown(12), "cannot grow"),
        (lambda: part().grown(9), "it only grows"),
    ],
)
def test_bad_configuration_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
