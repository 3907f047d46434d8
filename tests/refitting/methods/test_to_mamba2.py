"""A Mamba-2 layer from a trained attention: what is carried over, the fitted output map, and what it is good for."""

from dataclasses import replace
from types import SimpleNamespace

import torch

from layersmith.mixer.mamba2 import Mamba2
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting.build.distill import distill
from layersmith.refitting.methods.least_squares import fit_linear
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
def test_the_output_map_is_the_one_that_fits_best(view):
    """No change of it lowers the error on the fit calls: the error is smaller than with the map carried over, and
    moving the map in any direction raises it."""
    at = view("layers.1.attn")
    at.holdout = at.fit
    replacement = ToMamba2().build(at, {})
    fitted = at.local_error(replacement)
    o = next(m.o for m in replacement[0][1].modules() if isinstance(m, Mamba2))
    best = o.weight.clone()
    for seed in range(4):
        torch.manual_seed(seed)
        o.weight.copy_(best + 0.05 * torch.randn_like(best) * best.std())
        assert at.local_error(replacement) > fitted
    o.weight.copy_(at.attention.operator.o.weight)
    assert at.local_error(replacement) > 1.2 * fitted


@torch.no_grad()
def test_of_calls_with_padding_the_real_tokens_are_fitted(view):
    at = view("layers.1.attn")
    padded = SimpleNamespace(fit=[])
    for call in at.fit:
        pads = torch.randn_like(call.input[:, :5])
        mask = torch.arange(pads.shape[1] + call.input.shape[1]).expand(len(pads), -1) >= 5
        padded.fit.append(replace(call, input=torch.cat((pads, call.input), 1), mask=mask))
    part = started(at.attention.operator)
    torch.testing.assert_close(_mixed(padded, part), _mixed(at, part), atol=1e-5, rtol=0)


def test_a_start_from_the_attention_beats_a_random_one_after_the_same_steps(view):
    """Both with the output map fitted in closed form, both distilled for the same steps."""
    at = view("layers.1.attn")
    trained = ToMamba2().build(at, {})
    torch.manual_seed(0)
    config = started(at.attention.operator).spec()
    config.pop("name")
    part = Mamba2(**config)
    with torch.no_grad():
        fit_linear(part.o, _mixed(at, part), at.outputs)
    random = at.as_replacement(part)
    for replacement in (trained, random):
        distill(at, replacement, steps=20)
    assert at.local_error(trained) < 0.9 * at.local_error(random)


def test_attention_that_looks_ahead_is_refused():
    for causal in (True, False):
        at = SimpleNamespace(attention=SimpleNamespace(operator=SoftmaxAttention(16, 4, causal=causal)))
        assert (ToMamba2().unsupported_reason(at) is None) == causal
