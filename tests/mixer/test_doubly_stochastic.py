"""Doubly stochastic attention by loops: rows and columns of the weights sum to 1; one normalisation is softmax."""

import math

import pytest
import torch

from layersmith.mixer.doubly_stochastic import DoublyStochasticAttention
from layersmith.mixer.shared.scores import sight
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, close, inputs, part


def sinkhorn(scores, iterations):
    w = [[math.exp(s) for s in row] for row in scores]
    for step in range(iterations):
        sums = [sum(row) for row in w] if step % 2 == 0 else [sum(column) for column in zip(*w, strict=True)]
        w = [[x / sums[i if step % 2 == 0 else j] for j, x in enumerate(row)] for i, row in enumerate(w)]
    return w


def gram_schmidt(scores):
    """Squares of the orthonormal columns that I + scores becomes, one column after the other."""
    n = len(scores)
    columns = [[scores[i][j] + (i == j) for i in range(n)] for j in range(n)]
    made: list[list[float]] = []
    for column in columns:
        for q in made:
            along = sum(a * b for a, b in zip(q, column, strict=True))
            column = [c - along * a for a, c in zip(q, column, strict=True)]
        length = math.sqrt(sum(c * c for c in column))
        made.append([c / length for c in column])
    return [[made[j][i] ** 2 for j in range(n)] for i in range(n)]


@torch.no_grad()
@pytest.mark.oracle("doubly_stochastic")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "iterations": 2}, {"method": "qr", "bias": True}])
def test_equals_loops(config):
    m, x = part("doubly_stochastic", **config), inputs()
    group, expected = 2 // m.n_kv_heads, []
    for text in x:
        heads = []
        for head in range(2):
            shared = slice(head // group * 8, head // group * 8 + 8)
            q, k, v = m.q(text)[:, head * 8 : head * 8 + 8], m.k(text)[:, shared], m.v(text)[:, shared]
            scores = (q @ k.T / math.sqrt(8)).tolist()
            weights = gram_schmidt(scores) if m.method == "qr" else sinkhorn(scores, m.iterations)
            heads.append(torch.tensor(weights, dtype=torch.float64) @ v)
        expected.append(m.o(torch.cat(heads, 1)))
    close(m(x)[0], torch.stack(expected))


def weights_of(tokens, **config):
    m = DoublyStochasticAttention(8, 2, **config).double()
    everyone = sight(torch.zeros(1, 1, tokens, 4), torch.zeros(1, 1, tokens, 4), None, False)
    return m.weights(torch.randn(1, 2, tokens, tokens, dtype=torch.float64), everyone)


def off(weights):
    """How far rows and columns are from a sum of 1."""
    return max(float((weights.sum(d) - 1).abs().max()) for d in (-1, -2))


@torch.no_grad()
@pytest.mark.oracle("doubly_stochastic")
def test_rows_and_columns_sum_to_one():
    torch.manual_seed(0)
    assert off(weights_of(9, method="qr")) < 1e-12
    residuals = []
    for iterations in (1, 3, 5, 9, 21):
        torch.manual_seed(0)
        residuals.append(off(weights_of(9, iterations=iterations)))
    assert residuals == sorted(residuals, reverse=True)
    assert residuals[-1] < 1e-4 < residuals[0]


@torch.no_grad()
@pytest.mark.oracle("doubly_stochastic")
def test_one_normalisation_is_softmax_attention():
    config = {"n_kv_heads": 1, "rope_theta": 100.0, "qk_norm": True}
    plain = SoftmaxAttention(D, 2, causal=False, **config).double()
    m = DoublyStochasticAttention(D, 2, iterations=1, **config).double()
    m.load_state_dict(plain.state_dict())
    x, mask = inputs(), torch.tensor([[True] * 7, [False] * 2 + [True] * 5])
    close(m(x, mask=mask)[0][mask], plain(x, mask=mask)[0][mask])


@pytest.mark.parametrize("config", [{"method": "qontot"}, {"iterations": 0}])
def test_bad_settings_are_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        DoublyStochasticAttention(D, 2, **config)
