"""Each statistic finds what was planted, and says nothing of what was not."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from layersmith.explaining.floors import ridge
from layersmith.explaining.measures.complexity import complexity, waves
from layersmith.explaining.measures.linear import linearity, procrustes
from layersmith.explaining.measures.massive import massive
from layersmith.explaining.measures.positions import shares, split
from layersmith.explaining.measures.ranks import eigenvalues, hard_rank, soft_rank
from layersmith.explaining.measures.sinks import READERS, attention_weights, received, sinks


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_an_affine_map_is_linear_and_a_bent_one_is_not() -> None:
    x, weight = normal(400, 8), normal(8, 6, seed=1)
    assert linearity(x, x @ weight + 3) == pytest.approx(1.0, abs=1e-9)
    assert linearity(x, (x @ weight).abs()) < 0.5


def test_what_is_unrelated_is_not_called_linear_however_wide_the_input_is() -> None:
    """In sample, 60 inputs and 100 rows would explain most of pure noise."""
    assert linearity(normal(100, 60), normal(100, 4, seed=1)) < 0


def test_linearity_does_not_depend_on_rotation_and_scale_of_the_input() -> None:
    x, y = normal(400, 8), normal(400, 8, seed=1) + normal(400, 8)
    turn = torch.linalg.qr(normal(8, 8, seed=2)).Q
    assert linearity(7 * x @ turn, y) == pytest.approx(linearity(x, y), abs=1e-4)


def test_procrustes_is_one_for_a_turn_and_less_for_a_stretch() -> None:
    x, turn = normal(300, 6), torch.linalg.qr(normal(6, 6, seed=1)).Q
    assert procrustes(x, 5 * x @ turn + 2) == pytest.approx(1.0)
    stretched = procrustes(x, x * torch.tensor([1.0, 1, 1, 10, 10, 10]))
    a, b = x - x.mean(0), x * torch.tensor([1.0, 1, 1, 10, 10, 10])
    b = b - b.mean(0)
    best = torch.linalg.svdvals(a.T @ b).sum() / (a.norm() * b.norm())
    assert stretched == pytest.approx(float(best**2))
    assert stretched < 0.9


def test_equally_strong_directions_are_counted() -> None:
    rows = torch.zeros(4000, 12, dtype=torch.float64)
    rows[:, 2:7] = normal(4000, 5)
    for rank in (hard_rank, soft_rank):
        assert rank(eigenvalues(rows)) == pytest.approx(5, abs=0.05)
        assert rank(eigenvalues(rows[:, :1] + 1)) == 0.0  # a constant has no direction
    assert hard_rank(eigenvalues(normal(20000, 8))) == pytest.approx(8, abs=0.1)


def test_hard_rank_is_at_most_soft_rank_and_both_follow_their_formulas() -> None:
    values = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    p = [0.5, 1 / 3, 1 / 6]
    assert hard_rank(values) == pytest.approx(36 / 14)
    assert soft_rank(values) == pytest.approx(math.exp(-sum(q * math.log(q) for q in p)))
    assert hard_rank(values) <= soft_rank(values) <= 3


def test_few_rows_and_many_have_the_same_eigenvalues() -> None:
    rows = normal(5, 30)
    wide = torch.linalg.eigvalsh(torch.cov(rows.T, correction=0)).clamp_min(0)
    assert torch.allclose(eigenvalues(rows), wide[-5:], atol=1e-12)


def test_a_planted_massive_activation_is_found_where_it_stands() -> None:
    rows = normal(500, 16)
    quiet = massive(rows)
    assert quiet["massive"] == 0
    assert quiet["ratio"] < 20
    rows[123, 7] = -3000.0
    found = massive(rows)
    assert found["massive"] == 1
    assert found["where"][0] == {"row": 123, "column": 7, "value": -3000.0}
    assert found["ratio"] == pytest.approx(3000 / float(rows.abs().median()), rel=0.01)


def causal(scores: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(scores.shape[-2:]).triu(1).bool()
    return F.softmax(scores.masked_fill(mask, float("-inf")), dim=-1)


def test_even_attention_gives_every_key_what_its_readers_have_to_give() -> None:
    tokens = 20
    found = received(causal(torch.zeros(1, 2, tokens, tokens)))
    for key in range(tokens):
        readers = range(key, tokens)
        expected = sum(1 / (query + 1) for query in readers) / len(readers)
        if len(readers) < READERS:
            assert found[0, key].isnan()
        else:
            assert float(found[0, key]) == pytest.approx(expected, abs=1e-6)


def test_planted_sinks_are_found_and_told_apart() -> None:
    scores = torch.zeros(2, 3, 30, 30)
    scores[..., 0] = 3.0
    scores[1, :, :, 11] = 9.0  # in one text of two, one later position draws nearly all
    found = received(causal(scores))
    both = sinks(found, threshold=0.5)
    judged = int((~found[:, 1:].isnan()).sum())
    assert both["secondary"] == pytest.approx(1 / judged)
    assert float(found[1, 11]) > 0.95
    assert both["first"] == pytest.approx(float(found[:, 0].mean()))
    assert sinks(found[:1], threshold=0.5)["secondary"] == 0


def test_padding_neither_gives_nor_receives() -> None:
    scores = torch.zeros(1, 1, 24, 24)
    real = torch.ones(1, 24, dtype=torch.bool)
    real[:, 16:] = False
    weights = F.softmax(scores.masked_fill(~real[:, None, None], float("-inf")), dim=-1)
    found = received(weights, real)
    assert found[:, 16:].isnan().all()
    assert torch.allclose(found[:, :16], torch.full((1, 16), 1 / 16))


def test_weights_are_told_from_a_position_bias() -> None:
    weights = causal(torch.randn(1, 2, 9, 9))
    bias = torch.randn(1, 2, 9, 9)
    assert attention_weights((torch.zeros(1, 9, 4), bias, weights)) is weights
    assert attention_weights((torch.zeros(1, 9, 4), bias)) is None
    assert attention_weights(torch.zeros(1, 9, 4)) is None


def test_position_and_context_are_told_apart_and_add_up() -> None:
    hidden = normal(5, 7, 3)
    parts = split(hidden)
    total = parts["mean"] + parts["position"] + parts["context"][:, None] + parts["rest"]
    assert torch.allclose(total, hidden, atol=1e-12)
    assert parts["position"].sum(0).abs().max() < 1e-12
    assert parts["context"].sum(0).abs().max() < 1e-12
    planted = normal(7, 3)[None] + torch.zeros(5, 7, 3, dtype=torch.float64)
    assert shares(planted) == pytest.approx({"position": 1.0, "context": 0.0, "rest": 0.0}, abs=1e-12)
    assert shares(hidden)["position"] + shares(hidden)["context"] + shares(hidden)["rest"] == pytest.approx(1)


def test_ridge_is_least_squares_where_nothing_is_penalised() -> None:
    x, y = normal(50, 4), normal(50, 3, seed=1)
    weight, bias = ridge(x, y, 0.0)
    design = torch.cat([x, torch.ones(50, 1, dtype=torch.float64)], dim=1)
    solved = torch.linalg.lstsq(design, y).solution
    assert torch.allclose(weight, solved[:4].T, atol=1e-10)
    assert torch.allclose(bias, solved[4], atol=1e-10)


def test_a_massive_input_does_not_weigh_on_the_rest_of_a_ridge_fit() -> None:
    x = normal(400, 4)
    y = x @ normal(4, 2, seed=1)
    x[:, 0] *= 1e4
    weight, bias = ridge(x, y)
    assert float((x @ weight.T + bias - y).square().mean()) < 1e-4


def test_complexity_is_the_mean_frequency_of_the_waves_of_a_function() -> None:
    n = 16
    u = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    both = 3.0 * torch.cos(math.pi * 2 * u)[:, None] + torch.cos(math.pi * 3 * u)[:, None] * torch.cos(math.pi * 4 * u)
    expected = (3.0 * 1.0 + 1.0 * 2.5) / 4.0
    assert float(complexity(both + 7.0)) == pytest.approx(expected, abs=1e-9)
    assert float(complexity(torch.full((n, n), 5.0, dtype=torch.float64))) == 0.0
    found = waves(both)
    back = sum(
        float(found[j, k]) * torch.cos(math.pi * j * u)[:, None] * torch.cos(math.pi * k * u)
        for j in range(n)
        for k in range(n)
    )
    torch.testing.assert_close(back, both)
    noise = normal(3, n, n)
    assert complexity(noise).min() > 2 * expected
    assert complexity(noise).shape == (3,)
