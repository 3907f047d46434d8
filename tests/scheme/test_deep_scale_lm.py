"""DeepScaleLM: closed-form moments against simulation, the recursion by hand, and unit variance in a deep model."""

import math

import pytest
import torch

from layersmith.errors import UserError
from layersmith.scheme.deep_scale_lm import (
    DeepScaleLM,
    attended,
    attended_correlation,
    correlations,
    relu_correlation,
)
from layersmith.scheme.shared.edits import attention_maps, ffn_maps
from layersmith.scheme.shared.flow import flow, plain_model


def correlated(r, tokens, width, seed=0):
    """(tokens, width) standard normal, any two tokens of correlation r."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(1, width, generator=generator, dtype=torch.double)
    own = torch.randn(tokens, width, generator=generator, dtype=torch.double)
    return math.sqrt(r) * shared + math.sqrt(1 - r) * own


@pytest.mark.oracle("deep_scale_lm")
@pytest.mark.parametrize("r", [0.0, 0.3, 0.9])
def test_relu_correlation_by_simulation(r):
    a, b = torch.relu(correlated(r, 2, 400_000))
    found = (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()
    assert relu_correlation(r) == pytest.approx(found.item(), abs=0.01)


@pytest.mark.oracle("deep_scale_lm")
@pytest.mark.parametrize("r", [0.05, 0.4])
def test_causal_averages_by_simulation(r):
    tokens = 12
    x = correlated(r, tokens, 100_000)
    y = x.cumsum(0) / torch.arange(1, tokens + 1)[:, None]
    second = y @ y.T / x.shape[1]
    assert attended(r, tokens) == pytest.approx(second.diagonal().mean().item(), rel=0.03)
    pairs = second.sum() - second.diagonal().sum()
    found = pairs.item() / (tokens * (tokens - 1)) / second.diagonal().mean().item()
    assert attended_correlation(r, tokens) == pytest.approx(found, rel=0.03)


@pytest.mark.oracle("deep_scale_lm")
def test_the_recursion_by_hand():
    depth, r, expected = 5, 0.2, []
    for _ in range(depth):
        expected.append(r)
        r = 0.6 * r + 0.4 * 1.0
        r = 0.6 * r + 0.4 * (r + (math.sqrt(1 - r**2) - r * math.acos(r)) / math.pi)
    assert correlations(0.2, depth) == pytest.approx(expected)
    # Long sequences: the mean over causal positions goes to the paper's value.
    assert correlations(0.2, depth, tokens=100_000) == pytest.approx(expected, abs=1e-3)


@pytest.mark.oracle("deep_scale_lm")
def test_an_ffn_of_a_unit_input_has_a_unit_output_and_passes_a_unit_gradient():
    torch.manual_seed(0)
    model = plain_model(2, {}, d_model=128)
    DeepScaleLM().apply(model)
    x = torch.randn(1000, 128, requires_grad=True)
    y = model.layers[0].ffn(x)
    y.backward(torch.randn_like(y))
    assert y.square().mean().item() == pytest.approx(1, rel=0.1)
    assert x.grad.square().mean().item() == pytest.approx(1, rel=0.1)


@pytest.mark.oracle("deep_scale_lm")
def test_weights_and_factors_are_those_of_the_paper():
    torch.manual_seed(0)
    width, depth = 128, 8
    model = plain_model(depth, {}, d_model=width)
    DeepScaleLM(0.3).apply(model)
    rs = correlations(0.3, depth)
    for index in (0, 7):
        maps = attention_maps(model, index) | ffn_maps(model, index)
        expected = dict.fromkeys("qk", 1 / width) | dict.fromkeys("vo", math.sqrt(1 / rs[index]) / width)
        expected |= {"up": math.sqrt(0.5) / width, "down": math.sqrt(0.5) / width}
        for name, linear in maps.items():
            assert linear.weight.var().item() == pytest.approx(expected[name], rel=0.05), name
        assert model.layers[index].mixer_factors == (math.sqrt(0.75), math.sqrt(0.25))
        assert model.config.layers[index]["residual"]["ffn"] == [math.sqrt(0.75), math.sqrt(0.25)]


def test_every_layer_of_a_deep_model_keeps_its_variance():
    torch.manual_seed(0)
    model = plain_model(64, {}, d_model=64)
    DeepScaleLM(1 / 64, tokens=16).apply(model)
    found = flow(model, torch.randint(64, (4, 16)))
    assert all(0.5 < a**2 < 2 for a in found.activations)
    assert all(0.5 < (g / found.gradients[-1]) ** 2 < 2 for g in found.gradients)


def test_what_cannot_be_is_refused():
    model = plain_model(3, {})
    model.config.tie_word_embeddings = True
    with pytest.raises(UserError, match="tie_word_embeddings"):
        DeepScaleLM().apply(model)
    gated = plain_model(2, {"ffn": {"name": "glu", "d_hidden": 32}})
    with pytest.raises(UserError, match="gated"):
        DeepScaleLM().apply(gated)
    with pytest.raises(UserError, match="TransformerLM"):
        DeepScaleLM().apply(torch.nn.Linear(2, 2))
    with pytest.raises(UserError, match="macaron layers, or loops"):
        DeepScaleLM().apply(plain_model(2, {"first": {"norm": None, "ffn": {"name": "zero"}}}))
    with pytest.raises(UserError, match="has no linear map"):
        DeepScaleLM().apply(plain_model(2, {"mixer": {"name": "deltanet", "n_heads": 2}, "ffn": {"name": "zero"}}))
