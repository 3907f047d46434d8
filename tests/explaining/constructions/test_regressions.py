"""Constructions that compute with numbers, against the algorithms they stand for, by plain loops in float64."""

from __future__ import annotations

import math

import pytest
import torch

from layersmith.explaining.constructions import get

DOUBLE = torch.float64


def close(got: torch.Tensor, want: list, tolerance: float) -> None:
    torch.testing.assert_close(got.detach(), torch.tensor(want, dtype=DOUBLE), atol=tolerance, rtol=0)


def build(name: str, **settings: object):
    construction = get(name)
    settled = construction.settled(settings)
    return construction.build(settled), settled


def gradient_descent(x: list, y: list, rate: float, steps: int) -> list:
    """Literally: w <- w - rate * d/dw (1/2N) sum_i (w . x_i - y_i)^2."""
    w = [0.0] * len(x[0])
    for _ in range(steps):
        slope = [0.0] * len(w)
        for row, target in zip(x, y, strict=True):
            error = sum(a * b for a, b in zip(w, row, strict=True)) - target
            for j in range(len(w)):
                slope[j] += error * row[j] / len(x)
        for j in range(len(w)):
            w[j] -= rate * slope[j]
    return w


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_linear_attention_is_gradient_descent(steps: int) -> None:
    torch.manual_seed(3)
    module, _ = build("gradient_descent", pairs=9, d=3, steps=steps, rate=0.7)
    x, y, query = torch.randn(1, 9, 3).double(), torch.randn(1, 9).double(), torch.randn(1, 4, 3).double()
    w = gradient_descent(x[0].tolist(), y[0].tolist(), 0.7, steps)
    close(module(x, y, query)[0], [sum(a * b for a, b in zip(w, q, strict=True)) for q in query[0].tolist()], 1e-12)


def test_four_numbers_are_the_updates_of_the_paper() -> None:
    """x and y of every token, layer by layer, straight from the two formulas."""
    torch.manual_seed(3)
    module, s = build("versatile", pairs=6, d=2, layers=3, xx=0.3, xy=-0.4, yx=0.5, yy=-0.6)
    x, y, query = torch.randn(1, 6, 2).double(), torch.randn(1, 6).double(), torch.randn(1, 2, 2).double()
    xs, ys = [*x[0].tolist(), *query[0].tolist()], [*y[0].tolist(), 0.0, 0.0]
    for _ in range(3):
        new_x, new_y = [], []
        for xi, yi in zip(xs, ys, strict=True):
            more_x, more_y = list(xi), yi
            for xj, yj in zip(xs[:6], ys[:6], strict=True):
                product = xi[0] * xj[0] + xi[1] * xj[1]
                for c in range(2):
                    more_x[c] += (s["xx"] * product * xj[c] + s["xy"] * yj * xj[c] * yi) / 6
                more_y += (s["yx"] * yj * product + s["yy"] * yj * yj * yi) / 6
            new_x.append(more_x)
            new_y.append(more_y)
        xs, ys = new_x, new_y
    close(module.stream(x, y, query)[0], [[*a, b] for a, b in zip(xs, ys, strict=True)], 1e-12)


def test_one_step_is_the_formula_with_the_optimum() -> None:
    torch.manual_seed(3)
    module, _ = build("one_step", pairs=4, d=2, noise=0.5, uneven=4.0)
    x, y, query = torch.randn(1, 4, 2).double(), torch.randn(1, 4).double(), torch.randn(1, 1, 2).double()
    h = [1.0, 4.0]
    gamma = [1 / ((1 + 1 / 4) * v + (sum(h) + 0.25) / 4) for v in h]
    want = sum(
        query[0, 0, j].item() * gamma[j] * sum(y[0, i].item() * x[0, i, j].item() for i in range(4)) / 4
        for j in range(2)
    )
    close(module(x, y, query)[0], [want], 1e-12)


def test_mesa_is_ridge_by_the_normal_equations() -> None:
    torch.manual_seed(3)
    module, _ = build("mesa_regression", d=3, lam=0.2)
    s = torch.randn(1, 12, 3).double()
    want = []
    for t in range(12):
        gram, cross = 0.2 * torch.eye(3).double(), torch.zeros(3, 3).double()
        for i in range(1, t + 1):
            gram += torch.outer(s[0, i - 1], s[0, i - 1])
            cross += torch.outer(s[0, i], s[0, i - 1])
        want.append((cross @ torch.linalg.inv(gram) @ s[0, t]).tolist())
    close(module(s)[0], want, 1e-11)


def test_next_step_is_one_gradient_step() -> None:
    torch.manual_seed(3)
    module, _ = build("next_step", d=2, rate=0.3)
    s = torch.randn(1, 8, 2).double()
    rows, want = s[0].tolist(), []
    for t in range(8):
        sums = [0.0, 0.0]
        for i in range(t):
            product = rows[i][0] * rows[t][0] + rows[i][1] * rows[t][1]
            for c in range(2):
                sums[c] += 0.3 * rows[i + 1][c] * product
        want.append(sums)
    close(module(s)[0], want, 1e-12)


def test_newton_finds_the_inverse_by_its_iteration() -> None:
    module, _ = build("newton", d=2, steps=3)
    a, b, c = 2.0, 0.5, 1.0
    m = [[1 / 2.5, 0.0], [0.0, 1 / 2.5]]
    s = [[a, b], [b, c]]
    for _ in range(3):
        ms = [[sum(m[i][k] * s[k][j] for k in range(2)) for j in range(2)] for i in range(2)]
        msm = [[sum(ms[i][k] * m[k][j] for k in range(2)) for j in range(2)] for i in range(2)]
        m = [[2 * m[i][j] - msm[i][j] for j in range(2)] for i in range(2)]
    close(module(torch.tensor([s], dtype=DOUBLE))[0], m, 1e-14)
    far, _ = build("newton", d=2, steps=12)
    det = a * c - b * b
    close(far(torch.tensor([s], dtype=DOUBLE))[0], [[c / det, -b / det], [-b / det, a / det]], 1e-12)


def test_gated_network_is_the_sum_over_the_past() -> None:
    torch.manual_seed(3)
    from layersmith.explaining.constructions.gated_rnn import attention

    module, settings = build("gated_rnn", d=3)
    layer = attention(settings)
    w_q, w_k, w_v = (m.weight.detach().tolist() for m in (layer.q, layer.k, layer.v))
    x = torch.randn(1, 9, 3).double()

    def times(matrix: list, vector: list) -> list:
        return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]

    want = []
    for t in range(9):
        y = [0.0] * 3
        for s in range(t + 1):
            q, k, v = times(w_q, x[0, t].tolist()), times(w_k, x[0, s].tolist()), times(w_v, x[0, s].tolist())
            weight = sum(a * b for a, b in zip(q, k, strict=True))
            y = [total + weight * value for total, value in zip(y, v, strict=True)]
        want.append(y)
    close(module(x)[0], want, 1e-12)


def test_mixture_is_the_posterior_mean() -> None:
    torch.manual_seed(3)
    module, _ = build("regression_mixture", components=3, d=2, pairs=5, noise=0.8)
    betas = module.betas.detach().tolist()
    x, y, query = torch.randn(5, 2).double(), torch.randn(5).double(), torch.randn(2, 2).double()
    likelihoods = []
    for beta in betas:
        likelihood = 1.0
        for row, target in zip(x.tolist(), y.tolist(), strict=True):
            likelihood *= math.exp(-((target - beta[0] * row[0] - beta[1] * row[1]) ** 2) / (2 * 0.8**2))
        likelihoods.append(likelihood)
    want = [
        sum(p * (b[0] * q[0] + b[1] * q[1]) for p, b in zip(likelihoods, betas, strict=True)) / sum(likelihoods)
        for q in query.tolist()
    ]
    close(module(x, y, query), want, 1e-11)
