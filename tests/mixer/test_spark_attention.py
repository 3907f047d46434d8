"""Spark attention by loops; with nothing left out it is softmax attention; about as many keys are kept as asked for."""

import math
from statistics import NormalDist

import pytest
import torch

from layersmith.mixer.shared.scores import sight
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.mixer.spark_attention import SparkAttention
from tests.mixer.score_loops import D, by_loops, close, inputs, part, softmax


def chosen(scores, k):
    """Softmax over the scores above mean + std Phi^-1(1 - k / n), by their places; the largest is always in."""
    n = len(scores)
    if n <= k:
        return softmax(scores)
    mean = sum(scores) / n
    deviation = math.sqrt(sum((s - mean) ** 2 for s in scores) / n)
    theta = mean + NormalDist().inv_cdf(1 - k / n) * deviation
    kept = [i for i, s in enumerate(scores) if s > theta or s == max(scores)]
    weights = dict(zip(kept, softmax([scores[i] for i in kept]), strict=True))
    return [weights.get(i, 0.0) for i in range(n)]


@torch.no_grad()
@pytest.mark.oracle("spark_attention")
@pytest.mark.parametrize("config", [{"k": 3}, {"k": 1, "n_kv_heads": 1}, {"k": 4, "causal": False}])
def test_equals_loops(config):
    m, x = part("spark_attention", **config), inputs(11)
    close(m(x)[0], by_loops(m, x, lambda scores, *_: chosen(scores, config["k"])))


@torch.no_grad()
@pytest.mark.oracle("spark_attention")
def test_equals_loops_where_part_of_the_channels_choose():
    m, x = part("spark_attention", k=3, r=3, n_kv_heads=1), inputs(11)
    pairs = []

    def score(q, k):
        pairs.append((q, k))
        return float(q[:3] @ k[:3]) / math.sqrt(3)

    def row(scores, t, seen, head):
        strengths = [math.log1p(math.exp(float(q[3:] @ k[3:]) / math.sqrt(5))) for q, k in pairs[-len(seen) :]]
        return [a * s for a, s in zip(chosen(scores, 3), strengths, strict=True)]

    close(m(x)[0], by_loops(m, x, row, score))


@torch.no_grad()
@pytest.mark.oracle("spark_attention")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "rope_theta": 100.0, "scale": 0.2}, {"causal": False}])
def test_with_as_many_kept_as_there_are_it_is_softmax_attention(config):
    plain = SoftmaxAttention(D, 2, **config).double()
    m = SparkAttention(D, 2, k=9, **config).double()
    m.load_state_dict(plain.state_dict())
    x = inputs(9)
    close(m(x)[0], plain(x)[0])


@torch.no_grad()
def test_about_k_keys_are_kept():
    torch.manual_seed(0)
    m = SparkAttention(4, 1, k=64, causal=False)
    everyone = sight(torch.zeros(1, 1, 200, 4), torch.zeros(1, 1, 1024, 4), None, False)
    weights = m.weights(torch.randn(1, 1, 200, 1024), everyone)
    assert (weights > 0).sum(-1).float().mean().item() == pytest.approx(64, rel=0.03)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 1, 200))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"k": 0}, "k must be a positive integer"),
        ({"k": 2, "r": 8}, "r=8"),
        ({"k": 2, "r": 4, "scale": 1.0}, "scale"),
        ({"k": 2, "r": 4, "rope_theta": 100.0}, "RoPE turns 8 channels"),
        ({"k": 2, "r": 3, "rope_theta": 100.0, "rope_interleaved": True}, "even r"),
    ],
)
def test_bad_settings_are_refused(config, says):
    with pytest.raises(ValueError, match=says):
        SparkAttention(D, 2, **config)
