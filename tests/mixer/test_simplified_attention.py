"""Simplified attention by loops, its start at the identity, and softmax attention in the limit."""

import math

import pytest
import torch

from layersmith.mixer.shaped_attention import ShapedAttention
from layersmith.mixer.simplified_attention import SimplifiedAttention
from layersmith.mixer.softmax import SoftmaxAttention

D, HEADS, T = 8, 2, 6


@torch.no_grad()
def part(**settings) -> SimplifiedAttention:
    torch.manual_seed(0)
    built = SimplifiedAttention(D, HEADS, **settings).double()
    for parameter in built.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    return built


@pytest.mark.oracle("simplified_attention")
@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("values", [True, False])
def test_equals_loops(causal, values):
    m, x = part(causal=causal, values=values), 2 * torch.randn(1, T, D, dtype=torch.double)
    size, joined = D // HEADS, []
    q, k, v = (linear(x)[0].tolist() for linear in (m.q, m.k, m.v))
    for t in range(T):
        seen, row = range(t + 1) if causal else range(T), []
        for head in range(HEADS):
            own = range(head * size, (head + 1) * size)
            scores = [math.exp(sum(q[t][i] * k[s][i] for i in own) / math.sqrt(size)) for s in seen]
            skip, scored, centre = (float(gain[head]) for gain in (m.skip, m.scored, m.centre))
            a = [scored * e / sum(scores) - centre / len(scores) for e in scores]
            a[t] += skip
            row += [sum(w * v[s][i] for s, w in zip(seen, a, strict=True)) for i in own]
        joined.append(row)
    want = torch.tensor(joined, dtype=torch.double)
    want = want @ m.o.weight.T if values else want
    torch.testing.assert_close(m(x)[0][0], want, atol=1e-12, rtol=0)


@pytest.mark.oracle("simplified_attention")
@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"values": True, "rope_theta": 100.0}, {"causal": False}], ids=str)
def test_it_starts_as_the_identity(settings):
    torch.manual_seed(0)
    m, x = SimplifiedAttention(D, HEADS, **settings).double(), torch.randn(2, T, D, dtype=torch.double)
    torch.testing.assert_close(m(x)[0], x, atol=1e-14, rtol=0)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 1, 1, 0, 0]]).bool()
    torch.testing.assert_close(m(x, mask=mask)[0][mask], x[mask], atol=1e-14, rtol=0)


@pytest.mark.oracle("simplified_attention")
@torch.no_grad()
def test_without_skip_and_centre_it_is_softmax_attention_and_with_them_shaped_attention():
    m, x = part(values=True), torch.randn(2, T, D, dtype=torch.double)
    softmax, shaped = SoftmaxAttention(D, HEADS).double(), ShapedAttention(D, HEADS).double()
    weights = {name: value for name, value in m.state_dict().items() if name.endswith(".weight")}
    softmax.load_state_dict(weights)
    shaped.load_state_dict(weights)
    shaped.scale = None  # that of softmax attention
    for gain, value in ((m.skip, 0.0), (m.scored, 1.0), (m.centre, 0.0)):
        gain.fill_(value)
    torch.testing.assert_close(m(x)[0], softmax(x)[0], atol=1e-12, rtol=0)
    m.skip.fill_(1.0)
    m.centre.fill_(1.0)
    torch.testing.assert_close(m(x)[0], shaped(x)[0], atol=1e-12, rtol=0)


def test_without_values_it_has_half_the_parameters_and_a_few():
    assert sum(p.numel() for p in SimplifiedAttention(D, HEADS).parameters()) == 2 * D * D + 3 * HEADS
