"""Sparse dictionaries against slow float64 loops: every activation, forward and gradient; what training changes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared import sparse_codes
from layersmith.ffn.sparse_dictionary import SparseDictionary

D, FEATURES, K = 8, 32, 4
pytestmark = pytest.mark.oracle("sparse_dictionary")


def part(activation="topk", **settings):
    torch.manual_seed(0)
    made = SparseDictionary(D, FEATURES, K, activation, **{"bandwidth": 0.7, **settings}).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        made.threshold.abs_() if activation == "jumprelu" else None
        made.input_scale.fill_(2.0)
        made.output_scale.fill_(0.5)
        if activation == "batch_topk":
            made.threshold.fill_(0.6)
    return made.eval()


@pytest.fixture
def x():
    return torch.randn(2, 9, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def codes_of(made, row):
    """The codes of one token, feature by feature, in Python numbers."""
    row = [2.0 * float(v) for v in row]
    if made.centred:
        row = [v - float(b) for v, b in zip(row, made.bias, strict=True)]
    plain = [sum(float(w) * v for w, v in zip(ws, row, strict=True)) for ws in made.encoder.weight]
    pre = [p + float(b) for p, b in zip(plain, made.encoder.bias, strict=True)]
    if made.activation == "topk":
        kept = sorted(range(FEATURES), key=lambda i: -pre[i])[:K]
        return [max(pre[i], 0.0) if i in kept else 0.0 for i in range(FEATURES)]
    if made.activation == "relu":
        return [max(p, 0.0) for p in pre]
    if made.activation == "gated":
        lengths, biases = made.log_ratio.exp().tolist(), made.magnitude_bias.tolist()
        other = [p * length + b for p, length, b in zip(plain, lengths, biases, strict=True)]
        return [max(m, 0.0) if g > 0 else 0.0 for g, m in zip(pre, other, strict=True)]
    thresholds = made.threshold.expand(FEATURES).tolist()
    return [p if p > t and p > 0 else 0.0 for p, t in zip(pre, thresholds, strict=True)]


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("activation", sparse_codes.ACTIVATIONS)
def test_equals_a_loop_over_features(x, activation, skip, centred):
    made = part(activation, skip=skip, centred=centred)
    for row, got in zip(x.flatten(0, 1), made(x).flatten(0, 1), strict=True):
        codes = codes_of(made, row)
        expected = sum(code * direction for code, direction in zip(codes, made.decoder, strict=True)) + made.bias
        if skip:
            expected = expected + made.skip @ (2.0 * row)
        torch.testing.assert_close(got, expected / 0.5, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("activation", ["topk", "gated", "relu"])
def test_gradients_are_those_of_dense_autograd(x, activation):
    """Of the same codes, written with a mask from the forward pass and dense products."""
    made = part(activation, skip=True, centred=True)
    weight = torch.randn_like(x)
    own = x.clone().requires_grad_()
    (made(own) * weight).sum().backward()
    got = [own.grad, *(p.grad for p in made.parameters())]
    made.zero_grad()
    other = x.clone().requires_grad_()
    rows = 2.0 * other.flatten(0, 1)
    plain = (rows - made.bias) @ made.encoder.weight.T
    pre = plain + made.encoder.bias
    if activation == "topk":
        codes = F.relu(pre) * (pre >= pre.topk(K).values[:, -1:])
    elif activation == "gated":
        codes = F.relu(plain * made.log_ratio.exp() + made.magnitude_bias) * (pre > 0)
    else:
        codes = F.relu(pre)
    y = (codes @ made.decoder + rows @ made.skip.T + made.bias) / 0.5
    (y.view_as(x) * weight).sum().backward()
    expected = [other.grad, *(p.grad for p in made.parameters())]
    assert sum(b is None for b in expected) == (activation == "gated"), "the bias of a gate opens or shuts, no more"
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if b is not None:
            torch.testing.assert_close(a, b)


def test_the_threshold_has_the_published_slope(x):
    """d JumpReLU / d theta = -(theta / eps) K((z - theta) / eps), d step / d theta = -(1 / eps) K(.): by hand."""
    pre = x.flatten(0, 1).requires_grad_()
    threshold = torch.linspace(0.0, 0.8, D, dtype=torch.float64).requires_grad_()
    out = torch.randn_like(pre)
    for function, factor in ((sparse_codes.jumprelu, threshold.detach()), (sparse_codes.step, torch.ones(D))):
        pre.grad = threshold.grad = None
        y = function(pre, threshold, 0.5)
        (y * out).sum().backward()
        for i in range(D):
            near = [n for n in range(len(pre)) if abs(float(pre[n, i] - threshold[i])) < 0.25]
            expected = -sum(float(factor[i]) / 0.5 * float(out[n, i]) for n in near)
            assert float(threshold.grad[i]) == pytest.approx(expected, abs=1e-12)
        if function is sparse_codes.jumprelu:
            torch.testing.assert_close(pre.grad, out * (pre > threshold), rtol=0, atol=0)
        else:
            assert pre.grad is None
    assert (threshold.grad != 0).sum() > D // 2, "a kernel that nothing falls into tests nothing"


def test_the_threshold_of_a_dictionary_learns_only_in_training(x):
    made = part("jumprelu")
    made(x).sum().backward()
    assert made.threshold.grad is None or not made.threshold.grad.any()
    made.train()(x).sum().backward()
    assert made.threshold.grad.abs().sum() > 0


@pytest.mark.parametrize(("features", "k"), [(64, 1), (256, 4), (512, 16), (480, 15), (100, 3), (64, 64)])
def test_the_largest_are_found_in_groups_as_by_sorting(features, k):
    pre = torch.randn(50, features, dtype=torch.float64, generator=torch.Generator().manual_seed(features))
    values, places = sparse_codes.largest(pre, k)
    torch.testing.assert_close(values.sort(-1).values, pre.sort(-1).values[:, -k:], rtol=0, atol=0)
    assert torch.equal(pre.gather(1, places), values)
    assert all(len(set(row)) == k for row in places.tolist())


def test_batch_topk_keeps_as_many_as_tokens_times_k_and_follows_with_its_threshold(x):
    made = part("batch_topk").train()
    made.threshold.zero_()
    rows = made.read(x)
    codes = made.codes(rows)
    positive = F.relu(made.pre(rows))
    expected = sorted(positive.flatten().tolist(), reverse=True)[: K * len(rows)]
    assert sorted(codes[codes > 0].tolist(), reverse=True) == expected
    assert float(made.threshold) == expected[-1], "the first batch sets it"
    made.codes(2 * rows)
    assert expected[-1] < float(made.threshold) < 1.1 * expected[-1], "later ones move it slowly"
    alone = made.eval().codes(rows[:1])
    assert torch.equal(alone, made.codes(rows)[:1]), "in evaluation no token depends on another"


def test_with_all_features_allowed_it_is_a_relu_mlp(x):
    mlp = MLP(D, FEATURES, "relu", bias=True).double()
    made = SparseDictionary(D, FEATURES, FEATURES).double()
    with torch.no_grad():
        made.encoder.load_state_dict(mlp.up.state_dict())
        made.decoder.copy_(mlp.down.weight.T)
        made.bias.copy_(mlp.down.bias)
    torch.testing.assert_close(made(x), mlp(x), rtol=1e-10, atol=1e-12)


def test_only_rows_of_active_features_are_read(x):
    made = part()
    token = x[:1, :1]
    expected = made(token)
    _, chosen = made.top(made.read(token))
    silent = torch.ones(FEATURES, dtype=torch.bool)
    silent[chosen[0]] = False
    with torch.no_grad():
        made.decoder[silent] = float("nan")
    assert torch.equal(made(token), expected)


def test_scales_are_in_the_state_dict(x):
    made = part()
    other = SparseDictionary(D, FEATURES, K).double()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other(x), made(x))
    assert {"input_scale", "output_scale"} <= set(made.state_dict())


@pytest.mark.parametrize(
    ("change", "said"),
    [({"k": 33}, "there are only d_features=32"), ({"activation": "topp"}, "'topk'"), ({"bandwidth": 0.0}, "positive")],
)
def test_bad_configuration_is_refused(change, said):
    with pytest.raises(ValueError, match=said):
        SparseDictionary(**{"d_model": D, "d_features": FEATURES, "k": K, **change})
