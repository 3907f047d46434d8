"""Power-softmax by loops, and what an even power promises: no scale, no sign, no overflow."""

import pytest
import torch

from layersmith.mixer.power_softmax import PowerSoftmaxAttention
from layersmith.mixer.shared.scores import sight
from tests.mixer.score_loops import by_loops, close, inputs, part


def powers(p, eps=1e-6):
    def row(scores, t, seen, head):
        largest = max(abs(s) for s in scores)
        raised = [(s / largest) ** p for s in scores]
        return [r / (sum(raised) + eps) for r in raised]

    return row


@torch.no_grad()
@pytest.mark.oracle("power_softmax")
@pytest.mark.parametrize("config", [{}, {"power": 2, "n_kv_heads": 1}, {"power": 6, "causal": False, "bias": True}])
def test_equals_loops(config):
    m, x = part("power_softmax", **config), inputs()
    close(m(x)[0], by_loops(m, x, powers(config.get("power", 4))))


@torch.no_grad()
@pytest.mark.oracle("power_softmax")
def test_scale_and_sign_of_the_scores_do_not_matter():
    m, x = part("power_softmax"), inputs()
    y, _ = m(x)
    m.q.weight.mul_(-1000)
    close(m(x)[0], y)


@torch.no_grad()
@pytest.mark.oracle("power_softmax")
def test_a_high_power_takes_the_largest_score_alone():
    m, x = part("power_softmax", power=2000, causal=False), inputs()

    def row(scores, t, seen, head):
        sizes = [abs(s) for s in scores]
        return [1.0 if s == max(sizes) else 0.0 for s in sizes]

    m.eps = 1e-300
    torch.testing.assert_close(m(x)[0], by_loops(m, x, row), atol=1e-2, rtol=0)


def test_large_scores_do_not_overflow_and_a_row_of_zeros_weighs_nothing():
    m = PowerSoftmaxAttention(4, 1, power=12)
    scores = torch.tensor([[1e4, -1e4, 3.0], [1e4, 5e3, 1e-3], [0.0, 0.0, 0.0]])[None, None].requires_grad_()
    everyone = sight(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4), None, False)
    weights = m.weights(scores, everyone)
    expected = torch.tensor([[0.5, 0.5, 0.0], [4096 / 4097, 1 / 4097, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(weights[0, 0], expected, atol=1e-6, rtol=0)
    weights.square().sum().backward()
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize("config", [{"power": 3}, {"power": 0}, {"eps": 0.0}])
def test_bad_settings_are_refused(config):
    with pytest.raises(ValueError, match=next(iter(config))):
        PowerSoftmaxAttention(8, 2, **config)
