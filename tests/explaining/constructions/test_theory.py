"""Constructions that evaluate, tell apart, predict and train, against rewriting, integrals and differences by hand."""

from __future__ import annotations

import itertools
import math
import random
import re

import pytest
import torch

from layersmith.errors import UserError
from layersmith.explaining.constructions import get
from layersmith.explaining.constructions.collapse import SHORT, _paths
from layersmith.explaining.constructions.primality import TrialDivision, turns
from layersmith.explaining.constructions.shared.expressions import drawn, evaluated

DOUBLE = torch.float64


def build(name: str, **settings: object):
    construction = get(name)
    settled = construction.settled(settings)
    return construction.build(settled), settled


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("(3+4)*2", "(0)*2=0*2=0"),
        ("1+2*3", "1+6=0"),
        ("5-3-1", "2-1=1"),
        ("6/2*3", "3*3=2"),
        ("2-(1-5)", "2-(3)=2-3=6"),
        ("2*(3+1)*5", "2*(4)*5=2*4*5=1*5=5"),
        ("1+1*1+1", "1+1+1=2+1=3"),
    ],
)
def test_lines_are_those_of_school(text: str, written: str) -> None:
    module, _ = build("arithmetic")
    assert module(f"={text}=", 100) == written


def rewritten(text: str, p: int) -> str:
    """The leftmost handle by its value, by a pattern."""
    handle = r"\((\d)\)|(?<![*/])(\d)([*/])(\d)|(?:^|(?<=\())(\d)([+-])(\d)(?![*/])"

    def value(found: re.Match[str]) -> str:
        bare, a, op, b, c, sign, d = found.groups()
        if bare:
            return bare
        a, op, b = (a, op, b) if op else (c, sign, d)
        inverse = next((n for n in range(p) if n * int(b) % p == 1), 0)
        return str({"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) * inverse}[op] % p)

    return re.sub(handle, value, text, count=1)


def test_every_line_is_the_one_before_with_its_first_handle_evaluated() -> None:
    module, _ = build("arithmetic", modulus=5)
    draw = random.Random(7)
    for _ in range(4):
        text, value, _ = drawn(draw, 5, 5)
        lines = [text]
        while len(lines[-1]) > 1:
            lines.append(rewritten(lines[-1], 5))
        assert module(f"={text}=", 400).split("=") == lines[1:]
        assert lines[-1] == str(value)


def test_expressions_are_drawn_with_their_values() -> None:
    """Drawing knows a tree, reading knows the text: two ways to one value."""
    draw = random.Random(3)
    for _ in range(300):
        text, value, _ = drawn(draw, 6, 7)
        assert evaluated(text, 7) == value
        assert sum(letter in "+-*/" for letter in text) == 6
    assert evaluated("1-2*(3-4)", 7) == 3
    for broken in ("", "1+", "(1", "1)", "12"):
        with pytest.raises(ValueError, match="no expression"):
            evaluated(broken, 7)


def test_no_division_by_a_number_that_is_no_prime() -> None:
    with pytest.raises(UserError, match="prime"):
        get("arithmetic").settled({"modulus": 6})


@pytest.mark.parametrize("n", [2, 3])
def test_boltzmann_means_keep_the_bound_for_words_that_lie_anyhow(n: int) -> None:
    """The bound is from memory: here for words that are not on a grid, whose sets are all compared."""
    draw = random.Random(n)
    for _ in range(20):
        words = [0.0]
        while len(words) < 6:
            words.append(words[-1] + 4 * math.log(n) * draw.uniform(1.001, 1.3))
        middle = (words[0] + words[-1]) / 2
        sets = list(itertools.combinations([word - middle for word in words], n))
        means = [sum(z * math.exp(z) for z in s) / sum(math.exp(z) for z in s) for s in sets]
        gap = min(abs(a - b) for a, b in itertools.combinations(means, 2))
        assert gap > math.log(n) ** 2 * math.exp(-2 * middle)


def test_labels_are_those_that_were_asked_for() -> None:
    module, _ = build("boltzmann", words=4, n=2, seed=3)
    draw, wanted = random.Random(3), {}
    for words in itertools.combinations(range(4), 2):
        wanted[words] = [draw.randrange(10) for _ in words]
    for words, labels in wanted.items():
        torch.testing.assert_close(
            module(torch.tensor([words]))[0], torch.tensor(labels, dtype=DOUBLE), atol=1e-3, rtol=0
        )


def test_sets_that_float64_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(UserError, match="float64"):
        get("boltzmann").settled({"words": 12, "n": 4})
    with pytest.raises(UserError, match="different words"):
        get("boltzmann").settled({"words": 3, "n": 3})


def test_predictions_are_ratios_of_integrals() -> None:
    """p(1 | bits) = int t^(a+k) (1-t)^(b+n-k-1) / int t^(a+k-1) (1-t)^(b+n-k-1), which are Beta functions."""
    module, _ = build("exchangeable", bits=6, a=0.7, b=2.5)
    bits = [1, 0, 1, 1, 0]
    found = module(torch.tensor([bits]))[0].tolist()

    def log_beta(x: float, y: float) -> float:
        return math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)

    for n in range(6):
        k = sum(bits[:n])
        wanted = math.exp(log_beta(0.7 + k + 1, 2.5 + n - k) - log_beta(0.7 + k, 2.5 + n - k))
        assert found[n] == pytest.approx(wanted, abs=1e-12)


def test_the_factor_of_one_half_is_attained() -> None:
    module, _ = build("softmax_regression", n=2, d=1)
    a, x = torch.tensor([[[1.0], [-1.0]]], dtype=DOUBLE), torch.zeros(1, 1, dtype=DOUBLE)
    moved = (module(a, x + 1e-4) - module(a, x)).norm()
    bound = torch.linalg.matrix_norm(a[0], ord=2) * 1e-4 / 2
    assert 0.999 < float(moved / bound) <= 1


def test_a_turn_is_a_turn_of_the_program() -> None:
    module = TrialDivision(60).double()
    numbers = torch.arange(2, 61, dtype=DOUBLE)
    for count in (1, 5, 40, turns(60)):
        wanted = []
        for n in range(2, 61):
            i, m, composite = 2, 2, 0
            for _ in range(count):
                m += i
                if m == n:
                    composite = 1
                if m >= n:
                    i += 1
                    m = i
            wanted.append(composite)
        assert module(numbers, count).tolist() == wanted


def test_a_step_on_a_deep_network_is_that_of_differences_by_hand() -> None:
    module, _ = build("deep_descent", pairs=5, d=2, width=3, depth=3, steps=1, rate=0.2)
    torch.manual_seed(1)
    x, y, query = torch.randn(1, 5, 2).double(), torch.randn(1, 5).double(), torch.randn(1, 2, 2).double()
    start = module.start.detach().tolist()

    def network(w: list[float], inputs: list[float]) -> float:
        one, two, three = w[:6], w[6:15], w[15:]
        h = [max(sum(one[2 * i + j] * inputs[j] for j in range(2)), 0.0) for i in range(3)]
        h = [max(sum(two[3 * i + j] * h[j] for j in range(3)), 0.0) for i in range(3)]
        return sum(three[j] * h[j] for j in range(3))

    def loss(w: list[float]) -> float:
        pairs = zip(x[0].tolist(), y[0].tolist(), strict=True)
        return sum((network(w, row) - target) ** 2 for row, target in pairs) / 10

    new = []
    for index, value in enumerate(start):
        up, down = ([*start[:index], value + step, *start[index + 1 :]] for step in (1e-6, -1e-6))
        new.append(value - 0.2 * (loss(up) - loss(down)) / 2e-6)
    found = module.weights(module.stream(x, y, query))[0]
    assert float((found - torch.tensor(new, dtype=DOUBLE)).abs().max()) < 1e-7
    assert float((found[0] - module.start).abs().max()) > 1e-3
    wanted = [network(new, row) for row in query[0].tolist()]
    torch.testing.assert_close(module(x, y, query)[0], torch.tensor(wanted, dtype=DOUBLE), atol=1e-6, rtol=0)


def test_paths_are_products_of_matrices() -> None:
    look = torch.tril(torch.ones(SHORT, SHORT, dtype=DOUBLE)) / torch.arange(1, SHORT + 1, dtype=DOUBLE)[:, None]
    look += torch.eye(SHORT, dtype=DOUBLE)
    torch.testing.assert_close(_paths(3), torch.linalg.matrix_power(look, 3)[-1])


def test_a_head_that_counts_is_a_softmax_by_hand() -> None:
    module, _ = build("collapse", bound=0.3)
    for n in (0, 1, 7, 500):
        ones, zero = n * math.exp(0.3), math.exp(-0.3)
        assert float(module(torch.tensor([n]))) == pytest.approx(ones / (ones + zero), abs=1e-12)
