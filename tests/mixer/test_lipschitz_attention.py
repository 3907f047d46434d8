"""Lipschitz attention by loops, and outputs that grow with the inputs and no faster."""

import math

import pytest
import torch

from layersmith.mixer.lipschitz_attention import LipschitzAttention
from layersmith.mixer.softmax import SoftmaxAttention
from tests.mixer.score_loops import D, close, inputs, part, softmax


@torch.no_grad()
@pytest.mark.oracle("lipschitz_attention")
def test_equals_loops():
    m, x = part("lipschitz_attention", alpha=30.0, bias=True), inputs()
    expected = []
    for text in x:
        longest = max(math.sqrt(float(token @ token)) for token in text)
        heads = []
        for own in (slice(0, 8), slice(8, 16)):
            q, v = m.q(text)[:, own], m.v(text)[:, own]
            norm = math.sqrt(sum(float(a @ a) for a in q)) * longest + 1e-10
            weights = [softmax([-30 * float((a - b) @ (a - b)) / norm for b in q]) for a in q]
            heads.append(torch.tensor(weights, dtype=torch.float64) @ v)
        expected.append(m.o(torch.cat(heads, 1)))
    close(m(x)[0], torch.stack(expected))


@torch.no_grad()
@pytest.mark.oracle("lipschitz_attention")
def test_inputs_times_a_number_give_outputs_times_that_number():
    """So its slopes are the same at any size of the inputs; those of dot products grow with it."""
    m, plain, x = part("lipschitz_attention"), SoftmaxAttention(D, 2, causal=False).double(), inputs()
    close(m(1000 * x)[0] / 1000, m(x)[0], 1e-9)
    step = 1e-6 * torch.randn_like(x)

    def steepness(mixer, size):
        return float((mixer(size * x + step)[0] - mixer(size * x)[0]).norm() / step.norm())

    assert steepness(m, 100.0) == pytest.approx(steepness(m, 1.0), rel=1e-2)
    assert max(steepness(plain, size) for size in (3.0, 10.0, 30.0)) > 2 * steepness(plain, 1.0)


def test_tied_queries_and_keys_take_one_matrix_less_and_bad_settings_are_refused():
    assert LipschitzAttention(D, 2).cost().params == 3 * D * D
    with pytest.raises(ValueError, match="alpha"):
        LipschitzAttention(D, 2, alpha=0.0)


def test_gradients_are_finite_where_all_is_padding_and_for_zeros():
    m = LipschitzAttention(D, 2)
    x = torch.zeros(2, 3, D, requires_grad=True)
    m(x, mask=torch.tensor([[False] * 3, [True] * 3]))[0].square().sum().backward()
    assert x.grad.isfinite().all()
