"""Neural attention by loops over concatenated pairs, in chunks, and on a relation no dot product can score."""

import pytest
import torch

from layersmith.mixer.neural_attention import NeuralAttention
from tests.mixer.score_loops import by_loops, close, inputs, part, softmax


def network(m):
    """Of a query and a key, as one vector through one network."""
    joint = torch.cat((m.from_q.weight, m.from_k.weight), 1)

    def score(q, k):
        pair = torch.cat((m.q_score.weight @ q + m.q_score.bias, m.k_score.weight @ k + m.k_score.bias))
        hidden = (joint @ pair + m.from_q.bias).clamp_min(0)
        if isinstance(m.between, torch.nn.Sequential):
            hidden = (m.between[0].weight @ hidden + m.between[0].bias).clamp_min(0)
        return float(m.last.weight[0] @ hidden)

    return score


@torch.no_grad()
@pytest.mark.oracle("neural_attention")
@pytest.mark.parametrize(
    "config", [{}, {"layers": 2, "n_kv_heads": 1, "chunk": 3}, {"d_hidden": 5, "causal": False, "bias": True}]
)
def test_equals_loops(config):
    m, x = part("neural_attention", d_score=4, **config), inputs()
    close(m(x)[0], by_loops(m, x, lambda scores, *_: softmax(scores), network(m)))


@torch.no_grad()
@pytest.mark.oracle("neural_attention")
def test_it_can_find_the_nearest_number():
    """-|q - k| = -relu(q - k) - relu(k - q); a product of two numbers is monotone in the key and has no such peak."""
    m = NeuralAttention(1, 1, d_score=1, d_hidden=2, causal=False).double()
    for linear in (m.q, m.k, m.v, m.o, m.q_score, m.k_score):
        linear.weight.fill_(1.0)
    for linear in (m.q_score, m.k_score, m.from_q):
        linear.bias.zero_()
    m.from_q.weight.copy_(torch.tensor([[1.0], [-1.0]]))
    m.from_k.weight.copy_(torch.tensor([[-1.0], [1.0]]))
    m.last.weight.fill_(-100.0)
    x = torch.tensor([[[0.3], [-1.0], [2.0], [0.9]]], dtype=torch.float64)
    close(m(x)[0], x, 1e-10)  # each number finds itself


@pytest.mark.parametrize("config", [{"layers": 3}, {"d_score": 0}, {"chunk": 0}])
def test_bad_settings_are_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        NeuralAttention(8, 2, **config)
