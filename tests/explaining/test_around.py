"""Equations around a point: a planted square is found along its direction, a matrix is itself, weights are minded."""

from __future__ import annotations

import math

import pytest
import torch

import layersmith.explaining.formulas.around as fitting
from layersmith.explaining.formulas import sparse
from layersmith.explaining.formulas.around import Flat, Place, drawn, fit, values
from layersmith.explaining.formulas.choice import error, fitted, front
from layersmith.explaining.slime import Slime, judged, verdict
from layersmith.ffn.shared.expressions import compiled, nodes

D = 6


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def settings(**given: object) -> dict:
    return {**Slime.settings, "points": 256, **given}


CENTRE, NEAR = draw(0, D), draw(0, D) + draw(1, 40, D) * torch.tensor([3.0, 1.0, 2.0, 0.5, 1.0, 1.5])
#: The direction of the planted function; no principal direction of the neighbours.
SEEN = torch.nn.functional.normalize(draw(2, D), dim=0)
WRITTEN = draw(3, D)


def planted(x: torch.Tensor) -> torch.Tensor:
    """Of all directions one counts, and quadratically: (v x)^2 - v x, along one direction of the output."""
    a = x @ SEEN
    return torch.outer(a.square() - a, WRITTEN)


def matrix(x: torch.Tensor) -> torch.Tensor:
    return x @ draw(4, D, D).T + WRITTEN


def test_a_planted_square_is_found_along_its_own_direction() -> None:
    found = fit(planted, CENTRE, NEAR, settings())
    place = found.place
    assert float(place.shares[0]) == pytest.approx(1.0)
    assert abs(float(torch.cosine_similarity(place.reads[:, 0], SEEN, dim=0))) == pytest.approx(1.0)
    (tree,) = found.equations  # the output has one direction
    assert nodes(tree) == 10  # a constant, and x0 and its square with a number each
    x = place.back(draw(5, 50, 3))
    assert torch.allclose(found.write.back(values([tree], place.into(x))), planted(x), atol=1e-9)
    row = judged(found, planted, NEAR, settings())
    assert row["errors"]["1"]["equations"] < 1e-20
    assert row["errors"]["1"]["projected"] < 1e-20
    assert row["errors"]["8"]["equations"] < 1e-20
    assert row["holds"] == 8
    assert row["errors"]["8"]["linear"] > 0.5
    assert row["errors"]["1"]["shuffled"] > 0.95
    # Nothing else of an input counts, so the equation holds wherever the neighbours are.
    assert row["neighbours"]["equations"] < 1e-20
    assert row["outputs"][0]["error"] < 1e-20 < 1e-4 < row["outputs"][0]["linear"]


def test_of_a_linear_sublayer_the_equations_are_the_linear_fit_exactly() -> None:
    asked = settings(inputs=D, outputs=D)
    found = fit(matrix, CENTRE, NEAR, asked)
    weight = draw(4, D, D)
    assert torch.allclose(found.matrix[0], matrix(CENTRE[None])[0], atol=1e-9)
    assert torch.allclose(found.matrix[1:].T, weight @ found.place.writes, atol=1e-9)
    t = draw(6, 20, D)
    assert torch.allclose(found.write.back(values(found.equations, t)), matrix(found.place.back(t)), atol=1e-9)
    # Directions that count one by one: a constant and one variable, or a few where samples are not quite round.
    degrees = [max(map(len, _products(tree))) for tree in found.equations]
    assert degrees == [1] * D
    row = judged(found, matrix, NEAR, asked)
    for errors in (*row["errors"].values(), row["neighbours"]):
        assert errors["equations"] < 1e-20
        assert errors["linear"] < 1e-20
    assert verdict(row).startswith("It is linear around the token")


def _products(tree) -> list[list[str]]:
    """The variables of each product of a sum."""
    if not isinstance(tree, list):
        return [[tree] if isinstance(tree, str) else []]
    if tree[0] == "add":
        return [*_products(tree[1]), *_products(tree[2])]
    inside = [name for branch in tree[1:] for product in _products(branch) for name in product]
    return [inside * 2 if tree[0] == "square" else inside]


def test_coordinates_lead_there_and_back_a_radius_being_a_share_of_the_spread() -> None:
    place = Place.of(matrix, CENTRE, NEAR, 0.5, D)
    t = draw(7, 9, D)
    assert torch.allclose(place.into(place.back(t)), t, atol=1e-9)
    assert torch.equal(place.back(torch.zeros(1, D, dtype=torch.float64))[0], CENTRE)
    spread = torch.cov(NEAR.T, correction=0)
    assert torch.allclose(place.writes @ place.writes.T, 0.25 * spread, atol=1e-9)
    assert torch.allclose(Place.of(matrix, CENTRE, NEAR, 1.0, D).writes, 2 * place.writes, atol=1e-9)
    # What the output of a matrix changes by is that of the matrix: 2 W s along each, so the shares are known.
    change = (draw(4, D, D) @ place.writes).square().sum(0)
    assert torch.allclose(place.shares, change / change.sum(), atol=1e-9)
    assert place.shares.tolist() == sorted(place.shares.tolist(), reverse=True)


def test_errors_are_weighted_squares_over_the_weighted_variance() -> None:
    """By slow loops, for the mean and the linear fit of a function that is neither."""

    def curved(x: torch.Tensor) -> torch.Tensor:
        return (x @ draw(8, D, 3)).sin()

    asked = settings(inputs=2, outputs=2)
    found = fit(curved, CENTRE, NEAR, asked)
    t, weights = drawn(found.place, 256, 1.0, seed=1)
    y = curved(found.place.back(t))
    for row in range(3):
        assert float(weights[row]) == pytest.approx(math.exp(-sum(float(v) ** 2 for v in t[row]) / 2))
    ones = torch.cat((torch.ones(256, 1, dtype=torch.float64), t), 1)
    normal, right = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)
    mean = torch.zeros(3, dtype=torch.float64)
    for one, w, told in zip(ones, weights, y, strict=True):
        normal, right, mean = normal + w * one[:, None] * one, right + w * one[:, None] * told, mean + w * told
    mean = mean / weights.sum()
    assert torch.allclose(found.matrix, torch.linalg.solve(normal, right), atol=1e-9)
    assert torch.allclose(found.mean, mean)
    fresh, counts = drawn(found.place, 50, 2.0, seed=9)
    told = curved(found.place.back(fresh))
    assert float(counts[0]) == pytest.approx(math.exp(-sum((float(v) / 2) ** 2 for v in fresh[0]) / 2))
    centre = sum(w * y for w, y in zip(counts, told, strict=True)) / counts.sum()
    below = sum(float(w * (y - centre).square().sum()) for w, y in zip(counts, told, strict=True))
    above = sum(float(w * (y - mean).square().sum()) for w, y in zip(counts, told, strict=True))
    errors = found.errors(fresh, told, counts)
    assert errors["mean"] == pytest.approx(above / below)
    line = [torch.cat((torch.ones(1, dtype=torch.float64), t)) @ found.matrix for t in fresh]
    off = sum(float(w * (a - y).square().sum()) for w, a, y in zip(counts, line, told, strict=True))
    assert errors["linear"] == pytest.approx(off / below)
    assert errors["projected"] <= errors["equations"] + 1e-12


def test_an_equation_and_the_choice_of_it_mind_what_points_weigh() -> None:
    """With room for a number only, it is the weighted mean of the points fitted to, where 0 is the plain one."""
    found = fit(planted, CENTRE, NEAR, settings(longest=3))
    t, weights = drawn(found.place, 256, 1.0, seed=1)
    told, counts = found.write.into(planted(found.place.back(t)))[64:, 0], weights[64:]
    assert found.equations == [pytest.approx(float(counts @ told / counts.sum()))]
    assert abs(found.equations[0]) > 0.1


def test_what_is_fitted_to_is_not_judged_on_and_the_neighbours_are_not_fitted_to() -> None:
    read = []

    def listening(x: torch.Tensor) -> torch.Tensor:
        read.append(x)
        return planted(x)

    found = fit(listening, CENTRE, NEAR, settings())
    fitted_to, read[:] = torch.cat(read), []
    judged(found, listening, NEAR, settings())
    judged_on = torch.cat(read)
    assert len(judged_on) == 4 * 256 + 40
    assert torch.cdist(judged_on, fitted_to).min() > 1e-6
    assert torch.pdist(judged_on).min() > 1e-6


def test_nothing_is_found_where_there_is_nothing() -> None:
    with pytest.raises(Flat, match="all the same"):
        fit(planted, CENTRE, NEAR[:1].expand(40, D), settings())
    with pytest.raises(Flat, match="does not change"):
        fit(torch.zeros_like, CENTRE, NEAR, settings())


def test_sparse_regression_takes_the_products_that_are_there_and_minds_the_weights() -> None:
    x, weights = draw(10, 200, 3), torch.ones(200, dtype=torch.float64)
    y = 2.0 + 3.0 * x[:, 0] * x[:, 2] - 0.5 * x[:, 1] ** 3 + 0.01 * x[:, 1]
    y[0], weights[0] = 1e6, 0.0  # what weighs nothing is not fitted to
    trees = sparse.candidates(x, y, weights, longest=60)
    assert trees[0] == pytest.approx(float(y[1:].mean()))
    assert [nodes(tree) for tree in trees] == sorted(nodes(tree) for tree in trees)
    exact = trees[3]
    assert sorted(map(sorted, _products(exact)), key=len) == [[], ["x1"], ["x0", "x2"], ["x1", "x1", "x1"]]
    assert sorted(compiled([exact], 3)[1]) == pytest.approx([-0.5, 0.01, 2.0, 3.0])
    assert len(trees) == 4  # nothing is left to fit
    short = sparse.candidates(x, y, weights, longest=8)
    assert [nodes(tree) for tree in short] == [1, 7]  # with the second product it would be longer
    assert compiled(short, 3)[1] == pytest.approx(compiled(trees[:2], 3)[1])


def test_a_weight_of_two_is_a_row_that_stands_twice() -> None:
    x, counts = draw(11, 60, 2), torch.arange(60).double() % 3
    y = (x[:, 0] + x[:, 1]).tanh()
    twice = torch.arange(60).repeat_interleave(counts.long())
    tree = ["add", ["mul", 1.0, "x0"], ["mul", 1.0, "x1"]]
    assert error(tree, x, y, counts) == pytest.approx(error(tree, x[twice], y[twice]))
    assert error(tree, x, y, counts) != pytest.approx(error(tree, x, y), rel=1e-3)
    weighted, repeated = fitted(tree, x, y, counts), fitted(tree, x[twice], y[twice])
    assert compiled([weighted], 2)[1] == pytest.approx(compiled([repeated], 2)[1], rel=1e-6)
    assert compiled([weighted], 2)[1] != pytest.approx(compiled([fitted(tree, x, y)], 2)[1], rel=1e-3)
    assert front([weighted], x, y, counts)[0][0] == pytest.approx(error(weighted, x[twice], y[twice]))


def test_the_genetic_engine_gets_points_as_often_as_they_weigh_and_its_numbers_are_fitted(monkeypatch) -> None:
    handed = []

    def candidates(x, y, generations, longest, seed):
        handed.append((x, generations, longest))
        return [["add", ["add", 1.0, ["mul", 1.0, "x0"]], ["mul", 1.0, ["square", "x0"]]]]

    monkeypatch.setattr(fitting.engine, "candidates", candidates)
    asked = settings(engine="pyoperon", generations=7, longest=11, points=2048, inputs=2)
    found = fit(planted, CENTRE, NEAR, asked)
    assert judged(found, planted, NEAR, asked)["errors"]["1"]["equations"] < 1e-15
    points, generations, longest = handed[0]
    assert (points.shape, generations, longest) == ((1536, 2), 7, 11)
    # A Gaussian times exp(-|t|^2 / 2) is one of half the variance.
    assert float(points.var(0).mean()) == pytest.approx(0.5, abs=0.05)
