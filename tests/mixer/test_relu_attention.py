"""ReLU attention by loops, and outputs as wide as the values whatever the number of tokens."""

import math

import pytest
import torch

from layersmith.mixer.relu_attention import ReLUAttention
from layersmith.mixer.shared.scores import sight
from tests.mixer.score_loops import by_loops, close, inputs, part


@torch.no_grad()
@pytest.mark.oracle("relu_attention")
@pytest.mark.parametrize("config", [{}, {"gamma": 0.5, "n_kv_heads": 1}, {"causal": False, "bias": True}])
def test_equals_loops(config):
    def row(scores, t, seen, head):
        return [max(s, 0.0) / (config.get("gamma", 1.0) * math.sqrt(len(seen) / 2)) for s in scores]

    m, x = part("relu_attention", **config), inputs()
    close(m(x)[0], by_loops(m, x, row))


@torch.no_grad()
@pytest.mark.oracle("relu_attention")
@pytest.mark.parametrize("tokens", [16, 256, 4096])
def test_the_variance_of_the_output_does_not_depend_on_the_length(tokens):
    torch.manual_seed(0)
    m = ReLUAttention(4, 1, causal=False)
    scores, values = torch.randn(60, 1, 20, tokens), torch.randn(60, 1, tokens, 5)
    everyone = sight(torch.zeros(1, 1, 20, 4), torch.zeros(1, 1, tokens, 4), None, False)
    out = m.weights(scores, everyone) @ values
    assert out.var().item() == pytest.approx(1, rel=0.15)
    assert (scores.softmax(-1) @ values).var().item() < 4 / tokens


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="gamma"):
        ReLUAttention(8, 2, gamma=0.0)
