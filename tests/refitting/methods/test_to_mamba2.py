"""A Mamba-2 layer from a trained attention: what is carried over, the fitted factor, and what the start is good for."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from layersmith.mixer.mamba2 import Mamba2
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting.build.distill import distill
from layersmith.refitting.methods.replace.to_mamba2 import ToMamba2, _mixed, started


def test_maps_are_the_attentions_and_the_convolution_changes_nothing(view):
    full = view("layers.1.attn").attention.operator
    torch.manual_seed(0)
    part = started(full)
    for ours, trained in ((part.x, full.v), (part.b, full.k), (part.c, full.q), (part.o, full.o)):
        assert torch.equal(ours.weight, trained.weight)
    x = torch.randn(2, sum(part.widths), 9)
    assert torch.equal(part.conv(torch.nn.functional.pad(x, (3, 0))), x)
    steps = torch.nn.functional.softplus(part.dt.bias)
    assert ((steps > 9e-4) & (steps < 0.11)).all()


@torch.no_grad()
def test_the_norm_starts_with_the_factor_that_fits_best(view):
    at = view("layers.1.attn")
    at.holdout = at.fit
    replacement = ToMamba2().build(at, {})
    fitted = at.local_error(replacement)
    assert fitted < 1.0  # of zero outputs
    norm = next(m.norm for m in replacement[0][1].modules() if isinstance(m, Mamba2))
    assert norm.unique().numel() == 1
    for factor in (0.95, 1.05 / 0.95):
        norm.mul_(factor)
        assert at.local_error(replacement) > fitted


@torch.no_grad()
def test_of_calls_with_padding_the_real_tokens_count(view):
    at = view("layers.1.attn")
    padded = SimpleNamespace(fit=[])
    for call in at.fit:
        pads = torch.randn_like(call.input[:, :5])
        mask = torch.arange(pads.shape[1] + call.input.shape[1]).expand(len(pads), -1) >= 5
        padded.fit.append(replace(call, input=torch.cat((pads, call.input), 1), mask=mask))
    part = started(at.attention.operator)
    torch.testing.assert_close(_mixed(padded, part), _mixed(at, part), atol=1e-5, rtol=0)


def test_a_start_from_the_attention_beats_a_fresh_layer_after_the_same_steps(view):
    at = view("layers.1.attn")
    trained = ToMamba2().build(at, {})
    torch.manual_seed(0)
    config = {name: value for name, value in started(at.attention.operator).spec().items() if name != "name"}
    fresh = at.as_replacement(Mamba2(**config))
    for replacement in (trained, fresh):
        distill(at, replacement, steps=30)
    assert at.local_error(trained) < 0.9 * at.local_error(fresh)


def test_attention_that_looks_ahead_is_refused():
    for causal in (True, False):
        at = SimpleNamespace(attention=SimpleNamespace(operator=SoftmaxAttention(16, 4, causal=causal)))
        assert (ToMamba2().unsupported_reason(at) is None) == causal
