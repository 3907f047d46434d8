"""The coefficient that L-CODEC chooses weights by, and its Newton step, beside slow loops and exact solutions."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.explaining.forgetting.codec import chosen, dependence
from layersmith.explaining.forgetting.newton import Unit, conjugate_gradients, masks_of, removal


def by_loops(y: list[float], z: list[float], x: list[list[float]] | None) -> float:
    """T from its definition."""
    n = len(y)
    most = [sum(other <= own for other in y) for own in y]
    least = [sum(other >= own for other in y) for own in y]

    def nearest(rows: list[list[float]], i: int) -> int:
        return min((j for j in range(n) if j != i), key=lambda j: math.dist(rows[i], rows[j]))

    both = [nearest([[*(x[i] if x else []), z[i]] for i in range(n)], i) for i in range(n)]
    if x is None:
        above = sum(n * min(most[i], most[both[i]]) - least[i] ** 2 for i in range(n))
        return above / sum(least[i] * (n - least[i]) for i in range(n))
    alone = [min(most[i], most[nearest(x, i)]) for i in range(n)]
    above = sum(min(most[i], most[both[i]]) - alone[i] for i in range(n))
    return above / sum(most[i] - alone[i] for i in range(n))


@pytest.mark.parametrize("given", [0, 1, 3])
def test_the_coefficient_is_that_of_its_definition(given) -> None:
    generator = torch.Generator().manual_seed(given)
    y, z = torch.randn(23, generator=generator), torch.randn(23, 4, generator=generator)
    y[3] = y[7]  # equal values count on both sides
    x = torch.randn(23, given, generator=generator) if given else None
    got = dependence(y, z, x)
    for index in range(4):
        wanted = by_loops(
            y.double().tolist(), z[:, index].double().tolist(), None if x is None else x.double().tolist()
        )
        assert float(got[index]) == pytest.approx(wanted, abs=1e-12)


def test_it_is_about_0_without_dependence_and_about_1_for_a_function() -> None:
    generator = torch.Generator().manual_seed(0)
    x, z = torch.rand(600, generator=generator), torch.rand(600, generator=generator)
    other = torch.rand(600, generator=generator)
    y = (x + z) % 1  # tells nothing of z alone, and all of it together with x
    assert abs(float(dependence(y, torch.stack([z, x, other], 1)).abs().max())) < 0.12
    assert float(dependence(y, z[:, None], x[:, None])) > 0.85
    assert abs(float(dependence(y, other[:, None], x[:, None]))) < 0.12
    assert float(dependence((z - 0.5).square(), z[:, None])) > 0.95


def test_the_variables_that_matter_are_chosen_and_no_others() -> None:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(400, 12, generator=generator)
    z[:, 4] = 2.5  # never changes
    y = 3 * z[:, 7] + z[:, 2]
    found = chosen(y, z * torch.logspace(-3, 3, 12), most=3)  # whatever their scales
    assert found[:2] == [7, 2]
    assert 4 not in chosen(y, z, most=12)
    assert chosen(y, z, most=1) == [7]
    assert chosen(torch.ones(400), z, most=3) == []


def logistic(weight: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.binary_cross_entropy_with_logits(x @ weight, y) + 0.01 * weight.square().sum()


def fitted(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-12, tolerance_change=1e-16)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = logistic(weight, x, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach()


@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4], [1, 3]])
def test_the_step_is_newtons_and_all_weights_bring_it_next_to_retraining(rows) -> None:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(80, 5, dtype=torch.float64, generator=generator)
    y = (x @ torch.randn(5, dtype=torch.float64, generator=generator) > 0.3 * x[:, 0]).double()
    whole, gone = fitted(x, y), 4
    weight = torch.nn.Parameter(whole.clone())
    mask = torch.zeros_like(whole)
    mask[rows] = 1.0
    (step,) = removal(
        lambda: logistic(weight, x[:gone], y[:gone]),
        lambda: logistic(weight, x[gone:], y[gone:]),
        [weight],
        [mask],
        share=gone / (80 - gone),
        damping=0.0,
    )
    hessian = torch.autograd.functional.hessian(lambda w: logistic(w, x[gone:], y[gone:]), whole)
    gradient = torch.autograd.functional.jacobian(lambda w: logistic(w, x[:gone], y[:gone]), whole)
    wanted = torch.zeros_like(whole)
    wanted[rows] = gone / (80 - gone) * torch.linalg.solve(hessian[rows][:, rows], gradient[rows])
    torch.testing.assert_close(step, wanted, rtol=1e-8, atol=1e-12)
    if len(rows) == 5:
        retrained = fitted(x[gone:], y[gone:])
        assert (whole + step - retrained).norm() < 0.1 * (whole - retrained).norm()
        assert (whole - step - retrained).norm() > (whole - retrained).norm()  # the other way leads away


def test_the_solver_ends_where_the_loss_bends_down() -> None:
    bent = torch.diag(torch.tensor([2.0, -1.0]))
    (x,) = conjugate_gradients(lambda v: [bent @ v[0]], [torch.tensor([0.0, 1.0])], 10)
    assert x.tolist() == [0.0, 0.0]
    (x,) = conjugate_gradients(lambda v: [bent @ v[0]], [torch.tensor([1.0, 0.0])], 10)
    assert x.tolist() == [0.5, 0.0]


def test_a_unit_is_its_row_of_weights_and_its_bias() -> None:
    maps = {"a": torch.nn.Linear(3, 4), "b": torch.nn.Linear(3, 2, bias=False), "c": torch.nn.Linear(2, 2)}
    masks = masks_of(maps, [Unit("a", 1), Unit("b", 0), Unit("a", 3)])
    assert set(masks) == {maps["a"].weight, maps["a"].bias, maps["b"].weight}
    assert masks[maps["a"].weight].tolist() == [[0] * 3, [1] * 3, [0] * 3, [1] * 3]
    assert masks[maps["a"].bias].tolist() == [0, 1, 0, 1]
