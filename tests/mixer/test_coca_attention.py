"""Collinear attention in three forms: a sum of cosines, explicit keys turned by RoPE, and the part itself."""

import math

import pytest
import torch

from layersmith.mixer.coca_attention import CoCAAttention
from layersmith.mixer.shared.rope import rotary_table, rotate
from tests.mixer.score_loops import D, by_loops, close, inputs, part, softmax


def pair_factors(k):
    """t_m of one key vector: the mean of its halves, rectified."""
    return [max(0.0, float(a + b) / 2) for a, b in zip(k[:4], k[4:], strict=True)]


@torch.no_grad()
@pytest.mark.oracle("coca_attention")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "scale": 0.7}, {"causal": False, "bias": True}])
def test_equals_a_sum_of_cosines(config):
    m, x = part("coca_attention", rope_theta=100.0, **config), inputs()
    pairs = []

    def remembered(q, k):
        pairs.append((q, k))
        return 0.0

    def row(scores, t, seen, head):
        summed = []
        for (q, k), s in zip(pairs[-len(seen) :], seen, strict=True):
            lengths = [float(a * a + b * b) for a, b in zip(q[:4], q[4:], strict=True)]
            turns = [math.cos((t - s) * 100.0 ** (-i / 4)) for i in range(4)]
            summed.append(sum(a * b * c for a, b, c in zip(lengths, pair_factors(k), turns, strict=True)))
        return softmax([s * config.get("scale", 1 / math.sqrt(8)) for s in summed])

    close(m(x)[0], by_loops(m, x, row, remembered))


@torch.no_grad()
@pytest.mark.oracle("coca_attention")
def test_scores_are_those_of_keys_along_the_query_and_peak_at_distance_zero():
    """Keys q_m t_n made for each query, then turned by RoPE as any keys are."""
    torch.manual_seed(0)
    m = CoCAAttention(8, 1, rope_theta=100.0, causal=False).double()
    x = torch.randn(1, 8, dtype=torch.float64).expand(1, 9, 8)  # the same token everywhere
    q, k, _ = m.project(x, None, None)
    scores = (q @ k.mT)[0, 0]
    table = rotary_table(torch.arange(9)[None], 8, 100.0, torch.float64)
    t = torch.tensor(pair_factors(m.k(x)[0, 0]), dtype=torch.float64).repeat(2)
    plain = m.q(x)[:, None]
    close(scores, (rotate(plain, table) @ rotate(plain * t, table).mT)[0, 0])
    assert (scores.diagonal()[:, None] >= scores - 1e-12).all()


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="rope_theta=-1"):
        CoCAAttention(D, 2, rope_theta=-1.0)
