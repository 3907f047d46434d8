"""Constructions that keep, choose and hide: against enumeration, a second solver and differences by hand."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from layersmith.errors import UserError
from layersmith.explaining.constructions import get
from layersmith.explaining.constructions.attention_svm import _examples, descended, largest_margin
from layersmith.explaining.constructions.memorization import LABEL, Memorized, _groups, _length
from layersmith.explaining.constructions.order import ASK, OTHER, A, B, Order
from layersmith.explaining.constructions.prompted_machine import FLIP, INCREMENT, PARITY, interpreted
from layersmith.explaining.constructions.relu_symmetries import rank
from layersmith.explaining.constructions.scan_and_snap import frequencies, trained


def test_order_of_every_pair_of_places() -> None:
    module, n = Order(causal=True).double(), 9
    for first, second in itertools.permutations(range(n - 1), 2):
        ids = [OTHER] * (n - 1) + [ASK]
        ids[first], ids[second] = A, B
        found = float(module(torch.tensor([ids])))
        assert found == pytest.approx(1 / (second + 1) if first < second else 0, abs=1e-12)


def test_a_memory_returns_what_softmax_by_loops_returns() -> None:
    construction = get("associative_memory")
    settings = construction.settled({"patterns": 5, "d": 64, "beta": 50})
    module = construction.build(settings)
    patterns = module.patterns.tolist()
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).double() / 8
    for row, found in zip(x.tolist(), module(x).tolist(), strict=True):
        scores = np.exp([50 * sum(a * b for a, b in zip(row, p, strict=True)) for p in patterns])
        want = [sum(s * p[j] for s, p in zip(scores, patterns, strict=True)) / scores.sum() for j in range(64)]
        assert found == pytest.approx(want, abs=1e-10)


def test_the_largest_margin_is_what_another_solver_finds() -> None:
    x, z = _examples(get("attention_svm").settled({"examples": 3, "tokens": 4}))
    pairs = list(zip(x.numpy(), z.numpy(), strict=True))
    rows = np.array([np.outer(xs[0] - xs[t], q).ravel() for xs, q in pairs for t in (1, 2, 3)])
    found = minimize(
        lambda w: w @ w / 2,
        np.zeros(64),
        jac=lambda w: w,
        constraints={"type": "ineq", "fun": lambda w: rows @ w - 1, "jac": lambda w: rows},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    np.testing.assert_allclose(largest_margin(x, z).flatten().numpy(), found.x, atol=1e-4)


def test_gradient_descent_follows_autograd() -> None:
    x, z = _examples(get("attention_svm").settled({}))
    with torch.enable_grad():
        w = torch.zeros(8, 8, dtype=torch.float64, requires_grad=True)
        for _ in range(5):
            p = torch.softmax(torch.stack([xs @ w @ q for xs, q in zip(x, z, strict=True)]), 1)
            (slope,) = torch.autograd.grad(p[:, 0].sum(), w)
            w = (w + 0.1 * slope / slope.norm()).detach().requires_grad_()
    torch.testing.assert_close(descended(x, z, 5), w.detach())


@pytest.mark.parametrize(("n", "bits"), [(16, 6), (20, 7), (49, 7), (63, 6)])
def test_all_facts_of_random_tables_are_kept(n: int, bits: int) -> None:
    draw = random.Random(n)
    points = sorted(draw.sample(range(1, 2**bits), n))
    facts = {point: draw.randrange(1, 2**LABEL) for point in points}
    module = Memorized(_groups(list(facts.items()), bits), _length(n), bits).double()
    asked = torch.arange(1, 2**bits, dtype=torch.float64)
    assert module(asked).tolist() == [facts.get(point, 0) for point in range(1, 2**bits)]


def test_more_bits_than_float64_keeps_are_refused() -> None:
    with pytest.raises(UserError, match="bits of at most 7"):
        get("memorization").settled({"n": 49, "bits": 8})


def test_rank_is_that_of_differences_by_hand() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    points = 3 * torch.randn(60, 2, dtype=torch.float64)
    columns = []
    for parameter in network.parameters():
        flat = parameter.data.view(-1)
        for n in range(len(flat)):
            kept = flat[n].clone()
            flat[n] = kept + 1e-6
            up = network(points)[:, 0].clone()
            flat[n] = kept - 1e-6
            columns.append((up - network(points)[:, 0]) / 2e-6)
            flat[n] = kept
    assert rank(network, points) == np.linalg.matrix_rank(torch.stack(columns, 1).numpy(), tol=1e-4)


def test_a_wide_layer_hides_nothing_but_its_scales() -> None:
    """The bound is attained: every parameter but one for each hidden unit counts."""
    construction = get("relu_symmetries")
    settings = construction.settled({"inputs": 4, "width": 5})
    module = construction.build(settings)
    points = 3 * torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert rank(module.one, points) == 4 * 5 + 5 + 5 + 1 - 5


def test_scores_after_two_steps_are_those_of_the_formulas() -> None:
    """Gradients by hand: of the cross entropy, through the length of 1 and through the softmax."""
    p = frequencies(3).numpy()
    np.testing.assert_allclose(p.sum(1), 1)
    z, decoder = np.zeros(p.shape[1]), np.zeros_like(p)
    for _ in range(2):
        c = p * np.exp(z) / (p * np.exp(z)).sum(1, keepdims=True)
        length = np.linalg.norm(c, axis=1, keepdims=True)
        f = c / length
        chances = np.exp(f @ decoder.T) / np.exp(f @ decoder.T).sum(1, keepdims=True)
        wrong = (chances - np.eye(3)) / 3
        back = wrong @ decoder
        back = (back - f * (f * back).sum(1, keepdims=True)) / length
        decoder = decoder - 5.0 * wrong.T @ f
        z = z - 0.5 * (c * (back - (c * back).sum(1, keepdims=True))).sum(0)
    np.testing.assert_allclose(trained(3, 5.0, 0.5, 2).numpy(), z, atol=1e-12)
    assert np.abs(z).max() > 1e-3


def test_machines_do_what_their_programs_say() -> None:
    """The interpreter that the decoder is compared with, against arithmetic; and the decoder with it on every input."""
    module = get("prompted_machine").build({})
    for bits in itertools.chain.from_iterable(itertools.product((0, 1), repeat=n) for n in (1, 2, 3)):
        assert interpreted(PARITY, list(bits), 99)[-1][0] == sum(bits) % 2
        for table in (PARITY, INCREMENT, FLIP):
            assert module(table, list(bits), 99) == interpreted(table, list(bits), 99)
        tape, place = {n: bit for n, bit in enumerate(bits)}, 0
        for symbol, move, _ in interpreted(INCREMENT, list(bits), 99):
            tape[place] = symbol
            place += move
        value = sum(tape[n] << (len(bits) - 1 - n) for n in range(-1, len(bits)) if n in tape)
        assert value == int("".join(map(str, bits)), 2) + 1
