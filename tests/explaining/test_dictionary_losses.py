"""What a dictionary is trained to make small, against the published formulas written out in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from layersmith.explaining.dictionaries.losses import gate_error, losses, revival
from layersmith.ffn.sparse_dictionary import SparseDictionary

D, FEATURES, K = 6, 24, 3


def part(activation):
    torch.manual_seed(1)
    made = SparseDictionary(D, FEATURES, K, activation, centred=True, bandwidth=0.8).double().train()
    with torch.no_grad():
        made.encoder.bias.copy_(0.3 * torch.randn(FEATURES))
        made.bias.copy_(torch.randn(D))
        made.output_scale.fill_(2.0)
        made.input_scale.fill_(4.0)
        if activation == "gated":
            made.log_ratio.copy_(0.1 * torch.randn(FEATURES))
    return made


@pytest.fixture
def rows():
    draw = torch.Generator().manual_seed(2)
    return torch.randn(40, D, dtype=torch.float64, generator=draw), torch.randn(
        40, D, dtype=torch.float64, generator=draw
    )


@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jumprelu", "gated", "relu"])
def test_error_activity_and_penalty(rows, activation):
    x, y = rows
    made, variance = part(activation), torch.tensor(3.0, dtype=torch.float64)
    found = losses(made, x, y, variance)
    pre = (4.0 * x - made.bias) @ made.encoder.weight.T + made.encoder.bias
    codes = made.codes(made.read(x))
    left = y - (codes @ made.decoder + made.bias) / 2.0
    torch.testing.assert_close(found.error, left.square().sum() / (40 * 3.0))
    torch.testing.assert_close(found.left, left)
    assert float(found.active) == pytest.approx(float((codes > 0).sum()) / 40)
    assert torch.equal(found.fired, (codes > 0).any(0))
    expected = {
        "relu": F.relu(pre).sum() / 40 / (K * D) ** 0.5,
        "jumprelu": (pre > made.threshold).sum() / 40 / K if activation == "jumprelu" else None,
        "gated": F.relu(pre).sum() / 40 / (K * D) ** 0.5,
    }.get(activation)
    if expected is None:
        assert found.penalty is None
    else:
        torch.testing.assert_close(found.penalty, expected.double())


def test_the_gate_learns_from_its_own_error_through_a_frozen_decoder(rows):
    x, y = rows
    made = part("gated")
    error = gate_error(made, made.read(x), y, torch.tensor(1.0))
    pre = (4.0 * x - made.bias) @ made.encoder.weight.T + made.encoder.bias
    expected = ((F.relu(pre) @ made.decoder + made.bias) / 2.0 - y).square().sum(-1).mean()
    torch.testing.assert_close(error, expected)
    error.backward()
    assert made.decoder.grad is None
    assert made.encoder.bias.grad.abs().sum() > 0
    made.zero_grad()
    losses(made, x, y, torch.tensor(1.0)).error.backward()
    assert made.encoder.bias.grad is None or not made.encoder.bias.grad.any(), "the error does not reach the gate"


@pytest.mark.parametrize("activation", ["topk", "relu"])
def test_revival_is_the_error_of_dead_features_on_what_is_left(rows, activation):
    x, y = rows
    made = part(activation)
    dead = torch.tensor([2, 5, 11, 17, 23])
    found = losses(made, x, y, torch.tensor(1.0))
    error = revival(made, found, dead)
    pre = ((4.0 * x - made.bias) @ made.encoder.weight.T + made.encoder.bias)[:, dead]
    kept = pre * (pre >= pre.topk(D // 2).values[:, -1:])
    wrong = kept @ made.decoder[dead] / 2.0 - found.left
    torch.testing.assert_close(error, wrong.square().sum() / found.left.square().sum())
    error.backward()
    living = torch.ones(FEATURES, dtype=torch.bool)
    living[dead] = False
    assert not made.decoder.grad[living].any()
    assert not made.encoder.weight.grad[living].any()
    assert made.decoder.grad[dead].abs().sum() > 0
