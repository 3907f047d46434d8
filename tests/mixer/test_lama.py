"""LAMA against loops in both directions, and the means that it is when its scores say nothing."""

import math

import pytest
import torch

from layersmith.mixer.lama import LAMA

D, H, T = 6, 3, 9
X = torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def made(**settings):
    torch.manual_seed(1)
    part = LAMA(D, H, **settings).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter)
    return part


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def by_loops(part, tokens, context):
    """The output for a text of these tokens (lists of numbers)."""
    scores = []
    for token in tokens:
        raw = [
            math.tanh(dot(p, context) * dot(q, token))
            for p, q in zip(part.p.weight.tolist(), part.q.weight.tolist(), strict=True)
        ]
        norm = math.sqrt(dot(raw, raw))
        scores.append([value / norm for value in raw])
    summary = []
    for head in range(H):
        weights = [math.exp(score[head]) for score in scores]
        for channel in range(D):
            summary.append(sum(w * t[channel] for w, t in zip(weights, tokens, strict=True)) / sum(weights))
    return [dot(row, summary) for row in part.o.weight.tolist()]


@pytest.mark.oracle("lama")
def test_causal_summaries_by_loops():
    part = made()
    found = part(X)[0]
    for row in range(2):
        tokens = X[row].tolist()
        for t in range(T):
            expected = by_loops(part, tokens[: t + 1], part.c.tolist())
            assert found[row, t].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("lama")
@pytest.mark.parametrize("context", ["learned", "mean"])
def test_the_summary_of_a_whole_text_by_loops_is_given_to_every_token(context):
    part = made(causal=False, context=context)
    found = part(X)[0]
    for row in range(2):
        tokens = X[row].tolist()
        of_all = part.c.tolist() if context == "learned" else [sum(c) / T for c in zip(*tokens, strict=True)]
        expected = by_loops(part, tokens, of_all)
        for t in range(T):
            assert found[row, t].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.oracle("lama")
def test_without_a_context_every_head_is_the_mean():
    part = made()
    with torch.no_grad():
        part.c.zero_()
    means = X.cumsum(1) / torch.arange(1, T + 1)[:, None]
    torch.testing.assert_close(part(X)[0], part.o(means.repeat(1, 1, H)))


def test_padding_is_in_no_mean_and_no_sum():
    mask = torch.ones(2, T, dtype=torch.bool)
    mask[0, [0, 4, 8]] = False
    for part in (made(), made(causal=False, context="mean")):
        torch.testing.assert_close(part(X, None, mask)[0][0, mask[0]], part(X[:1, mask[0]])[0][0])
        nothing = part(X, None, torch.zeros(2, T, dtype=torch.bool))[0]
        assert torch.isfinite(nothing).all()


def test_a_causal_one_cannot_have_the_mean_of_the_text():
    with pytest.raises(ValueError, match="context='mean'"):
        LAMA(D, causal=True, context="mean")
    with pytest.raises(ValueError, match="not causal here"):
        made(causal=False)(X, {})
