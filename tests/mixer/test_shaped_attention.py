"""Shaped attention and the shaped MLP by loops, their limits, and what they do to tokens at depth."""

import math

import pytest
import torch

from layersmith.ffn.mlp import MLP
from layersmith.ffn.shaped_mlp import ShapedMLP
from layersmith.mixer.shaped_attention import ShapedAttention
from layersmith.scheme.shaped import Shaped
from layersmith.scheme.shared.flow import flow, plain_model

D, HEADS, T = 8, 2, 5


@pytest.mark.oracle("shaped_attention")
@pytest.mark.parametrize("causal", [True, False])
def test_attention_by_loops(causal):
    torch.manual_seed(0)
    part = ShapedAttention(D, HEADS, causal=causal, tau=0.2).double()
    x = 2 * torch.randn(1, T, D, dtype=torch.double)
    n_k = D // HEADS
    q, k, v = (linear(x)[0].tolist() for linear in (part.q, part.k, part.v))
    joined = []
    for t in range(T):
        seen, row = range(t + 1) if causal else range(T), []
        for head in range(HEADS):
            own = range(head * n_k, (head + 1) * n_k)
            scores = [math.exp(sum(q[t][i] * k[s][i] for i in own) / (0.2 * math.sqrt(D * n_k))) for s in seen]
            a = [e / sum(scores) - 1 / len(scores) + (s == t) for s, e in zip(seen, scores, strict=True)]
            assert sum(a) == pytest.approx(1)
            row += [sum(w * v[s][i] for s, w in zip(seen, a, strict=True)) for i in own]
        joined.append(row)
    expected = torch.tensor(joined, dtype=torch.double) @ part.o.weight.T
    torch.testing.assert_close(part(x)[0][0], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.oracle("shaped_attention")
def test_at_a_high_temperature_every_token_passes_its_own_value():
    torch.manual_seed(0)
    part = ShapedAttention(D, HEADS, tau=1e9).double()
    x = torch.randn(2, T, D, dtype=torch.double)
    torch.testing.assert_close(part(x)[0], part.o(part.v(x)), rtol=1e-6, atol=1e-8)


@pytest.mark.oracle("shaped_mlp")
def test_mlp_by_loops():
    torch.manual_seed(0)
    part = ShapedMLP(3, 4, c_plus=0.5, c_minus=-1.5).double()
    above, below = 1 + 0.5 / 2, 1 - 1.5 / 2
    up, down = part.up.weight.tolist(), part.down.weight.tolist()
    for token in torch.randn(6, 3, dtype=torch.double):
        h = [sum(w * v for w, v in zip(row, token.tolist(), strict=True)) for row in up]
        h = [above * max(v, 0) + below * min(v, 0) for v in h]
        expected = [sum(w * v for w, v in zip(row, h, strict=True)) for row in down]
        assert part(token).tolist() == pytest.approx(expected)


@pytest.mark.oracle("shaped_mlp")
@pytest.mark.parametrize(("c_plus", "c_minus", "act"), [(0.0, -4.0, "relu"), (0.0, 0.0, "identity")])
def test_mlp_limits(c_plus, c_minus, act):
    """Sixteen hidden channels: a slope of 1 - 4 / sqrt(16) = 0 below is ReLU; no shaping at all is linear."""
    torch.manual_seed(0)
    part, plain = ShapedMLP(D, 16, c_plus, c_minus), MLP(D, 16, act=act, bias=False)
    plain.load_state_dict(part.state_dict())
    x = torch.randn(9, D)
    torch.testing.assert_close(part(x), plain(x))


def test_mlp_keeps_the_second_moment():
    torch.manual_seed(0)
    part = ShapedMLP(256, 1024, c_minus=-10.0)
    assert part(torch.randn(500, 256)).square().mean().item() == pytest.approx(1, rel=0.1)


@pytest.mark.oracle("shaped")
def test_tokens_stay_apart_at_depth_where_ordinary_attention_makes_them_equal():
    cosine = {}
    for name, mixer in (("shaped", "shaped_attention"), ("ordinary", "softmax_attention")):
        torch.manual_seed(0)
        model = plain_model(64, {"mixer": {"name": mixer, "n_heads": 4}, "ffn": Shaped.tested_on["ffn"]})
        if name == "shaped":
            Shaped(0.3).apply(model)
        else:
            shaped = plain_model(64, Shaped.tested_on)
            Shaped(0.3).apply(shaped)
            model.load_state_dict(shaped.state_dict())
            for layer, other in zip(model.layers, shaped.layers, strict=True):
                layer.mixer_factors, layer.ffn_factors = other.mixer_factors, other.ffn_factors
        cosine[name] = flow(model, torch.randperm(64)[:32].view(2, 16)).cosine
    assert cosine["shaped"] < 0.5
    assert cosine["ordinary"] > 0.9


@pytest.mark.oracle("shaped")
def test_weights_and_factors():
    torch.manual_seed(0)
    model = plain_model(2, Shaped.tested_on, d_model=64)
    Shaped(0.6).apply(model)
    layer = model.layers[1]
    assert layer.mixer_factors == pytest.approx((0.8, 0.6))
    assert layer.mixer.v.weight.var().item() == pytest.approx(1 / 64, rel=0.1)
    gain = 2 / (layer.ffn.above**2 + layer.ffn.below**2)
    assert layer.ffn.down.weight.var().item() == pytest.approx(gain / 128, rel=0.1)
    with pytest.raises(ValueError, match="shaped_attention"):
        Shaped().apply(plain_model(2, {}))


def test_bad_configurations_are_refused():
    with pytest.raises(ValueError, match="tau"):
        ShapedAttention(D, HEADS, tau=0.0)
    with pytest.raises(ValueError, match="slopes 0"):
        ShapedMLP(D, 16, c_plus=-4.0, c_minus=-4.0)
