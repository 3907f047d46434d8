"""The sandwich layer by loops, its certificate, and how tight the bound becomes."""

import math

import numpy as np
import pytest
import torch

from layersmith.ffn.lipschitz_ffn import LipschitzFFN, cayley, inverse_cayley

WIDTHS = [4, 6, 9, 20]


def part(d_hidden: int = 6, gamma: float = 2.5) -> LipschitzFFN:
    torch.manual_seed(0)
    m = LipschitzFFN(6, d_hidden, gamma).double()
    for parameter in m.parameters():
        torch.nn.init.normal_(parameter)
    return m


@pytest.mark.oracle("lipschitz_ffn")
@pytest.mark.parametrize("d_hidden", WIDTHS)
def test_by_loops(d_hidden):
    m = part(d_hidden)
    w = m.weight.detach().numpy()
    w = m.alpha.item() * w / math.sqrt((w * w).sum())
    tall = w.T if w.shape[1] > w.shape[0] else w
    u, v = tall[: tall.shape[1]], tall[tall.shape[1] :]
    skew = u - u.T + v.T @ v
    inverse = np.linalg.inv(np.eye(len(u)) + skew)
    q = np.concatenate([inverse @ (np.eye(len(u)) - skew), -2 * v @ inverse])
    q = q.T if w.shape[1] > w.shape[0] else q
    psi, bias, out = m.psi.tolist(), m.b.tolist(), m.c.tolist()
    x = torch.randn(2, 3, 6, dtype=torch.double)
    for token, y in zip(x.reshape(-1, 6).tolist(), m(x).reshape(-1, 6).tolist(), strict=True):
        h = []
        for j in range(d_hidden):
            pre = sum(q[j, 6 + i] * math.sqrt(m.gamma) * token[i] for i in range(6))
            h.append(math.exp(psi[j]) * max(0.0, math.sqrt(2) * math.exp(-psi[j]) * pre + bias[j]))
        expected = [
            math.sqrt(m.gamma) * math.sqrt(2) * sum(q[j, i] * h[j] for j in range(d_hidden)) + out[i] for i in range(6)
        ]
        assert y == pytest.approx(expected, rel=1e-8)


@pytest.mark.oracle("lipschitz_ffn")
@pytest.mark.parametrize("d_hidden", WIDTHS)
def test_rows_or_columns_are_orthonormal(d_hidden):
    q = cayley(part(d_hidden).weight)
    product = q @ q.T if d_hidden <= 12 else q.T @ q
    torch.testing.assert_close(product, torch.eye(len(product), dtype=torch.double))
    torch.testing.assert_close(cayley(inverse_cayley(q)), q)


@pytest.mark.oracle("lipschitz_ffn")
@pytest.mark.parametrize("d_hidden", WIDTHS)
def test_never_stretches_more_than_gamma(d_hidden):
    """Jacobians and finite differences at 10,000 random points, for parameters of any size."""
    m = part(d_hidden)
    torch.manual_seed(1)
    x, step = 3 * torch.randn(10_000, 6, dtype=torch.double), torch.randn(10_000, 6, dtype=torch.double)
    stretch = (m(x + step) - m(x)).norm(dim=-1) / step.norm(dim=-1)
    assert stretch.max() <= m.gamma * (1 + 1e-9)
    up, down = m.matrices()
    active = (x @ up.T + m.b > 0).double()
    norms = torch.linalg.matrix_norm((down * active[:2000, None]) @ up, 2)
    assert norms.max() <= m.gamma * (1 + 1e-9)


@pytest.mark.oracle("lipschitz_ffn")
def test_bound_is_tight_after_fitting_a_steep_target():
    torch.manual_seed(0)
    m = LipschitzFFN(4, 4, gamma=2.0)
    x = torch.randn(512, 4)
    optimizer = torch.optim.Adam(m.parameters(), lr=0.02)
    for _ in range(300):
        optimizer.zero_grad()
        (m(x) - 5 * x.abs()).square().mean().backward()
        optimizer.step()
    up, down = m.matrices()
    active = (x @ up.T + m.b > 0).float()
    steepest = torch.linalg.matrix_norm((down * active[:, None]) @ up, 2).max()
    assert 0.8 * 2.0 <= steepest <= 2.0 * (1 + 1e-4)


@pytest.mark.parametrize("d_hidden", WIDTHS)
def test_folded_is_the_equal_mlp(d_hidden):
    m = part(d_hidden)
    x = torch.randn(5, 6, dtype=torch.double)
    torch.testing.assert_close(m.folded()(x), m(x))
    assert m.folded().name == "mlp"


@pytest.mark.parametrize("gamma", [0.0, -1.0, float("nan")])
def test_bad_bound_is_refused(gamma):
    with pytest.raises(ValueError, match="gamma must be positive"):
        LipschitzFFN(4, 4, gamma)
