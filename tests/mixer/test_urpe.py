"""URPE attention by loops; with factors of 1 it is attention with a relative bias, and cannot tell places apart."""

import pytest
import torch

from layersmith.mixer.urpe import URPEAttention
from tests.mixer.score_loops import D, by_loops, close, inputs, part, softmax


@torch.no_grad()
@pytest.mark.oracle("urpe")
@pytest.mark.parametrize("config", [{}, {"n_kv_heads": 1, "relative_bias": False}, {"causal": False, "bias": True}])
def test_equals_loops(config):
    m, x = part("urpe", max_distance=4, **config), inputs()

    def row(scores, t, seen, head):
        places = [min(t - s, 4) if m.causal else max(-4, min(t - s, 4)) + 4 for s in seen]
        if m.relative is not None:
            scores = [s + float(m.relative[p, head]) for s, p in zip(scores, places, strict=True)]
        return [w * float(m.factor[p, head]) for w, p in zip(softmax(scores), places, strict=True)]

    close(m(x)[0], by_loops(m, x, row))


@torch.no_grad()
@pytest.mark.oracle("urpe")
def test_a_relative_bias_cannot_count_equal_tokens_and_the_factors_can():
    m = part("urpe", max_distance=8)
    x = torch.randn(D, dtype=torch.float64).expand(1, 9, D)
    m.factor.fill_(1.0)
    rows = m(x)[0][0]
    close(rows, rows[:1].expand(9, D))
    # Of equal tokens token t takes the mean of factors 0 to t: with factor 2 d it is t.
    m.relative.zero_()
    m.factor.copy_(2 * torch.arange(9.0)[:, None].expand(9, 2))
    close(m(x)[0][0], torch.arange(9.0, dtype=torch.float64)[:, None] * rows[0], 1e-10)


def test_it_has_one_number_per_head_and_distance():
    both = URPEAttention(D, 2, max_distance=5, relative_bias=False, causal=False)
    assert both.factor.numel() == 2 * (2 * 6 - 1)
    assert both.factor.eq(1).all()
    with pytest.raises(ValueError, match="max_distance"):
        URPEAttention(D, 2, max_distance=0)
