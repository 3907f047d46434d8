"""Methods that zero single weights: which they keep, that milder is closer, and where the pattern does not fit."""

import pytest
import torch

from layersmith.linear.shared.masks import transposable, two_four
from layersmith.linear.sparse import SparseLinear
from layersmith.refitting import methods
from tests.refitting.methods.by_hand import SITE, View

FFN = "layers.1.ffn"


def test_magnitude_keeps_everything_or_the_largest(view):
    at = view(FFN)
    assert at.local_error(methods.get("magnitude").build(at, {"keep": 1.0})) < 1e-10
    for edit, part in methods.get("magnitude").build(at, {"keep": 0.3}):
        weight = at.model.get_submodule(edit.path).weight
        assert int(part.mask.sum()) == round(0.3 * weight.numel())
        assert weight[part.mask].abs().min() >= weight[~part.mask].abs().max()
        assert torch.equal(part.dense_weight()[part.mask], weight[part.mask])


def test_errors_fall_as_more_weights_stay(view):
    at = view(FFN)
    errors = [at.local_error(methods.get("magnitude").build(at, {"keep": keep})) for keep in (0.3, 0.5, 0.7, 0.9)]
    assert errors == sorted(errors, reverse=True)
    free = at.local_error(methods.get("magnitude").build(at, {"keep": 0.5}))
    rows, both = (at.local_error(methods.get("two_four").build(at, s)) for s in methods.get("two_four").options(at))
    assert free < rows < both, "each pattern forbids more masks than the one before"


@pytest.mark.parametrize(("both", "rule"), [(False, two_four), (True, transposable)])
def test_two_four_takes_its_mask_from_the_magnitudes(view, both, rule):
    at = view(FFN)
    for edit, part in methods.get("two_four").build(at, {"transposable": both}):
        weight = at.model.get_submodule(edit.path).weight
        assert torch.equal(part.mask, rule(weight.abs()))
        assert torch.equal(part.dense_weight(), weight * rule(weight.abs()))


def test_zeros_that_are_there_already_cost_nothing(view, llama):
    saved = {}
    try:
        for path, module in view(FFN).linears().items():
            saved[path] = module.weight.clone()
            module.weight.mul_(transposable(torch.rand_like(module.weight)))
        at = view(FFN)
        assert at.local_error(methods.get("two_four").build(at, {"transposable": True})) < 1e-10
        assert at.local_error(methods.get("magnitude").build(at, {"keep": 0.5})) < 1e-10
    finally:
        for path, weight in saved.items():
            llama.get_submodule(path).weight.copy_(weight)


def test_a_width_that_does_not_fit_is_refused_with_the_matrix_named():
    at = View(linears=lambda: {"mlp.up": torch.nn.Linear(12, 10)}, site=SITE)
    reason = methods.get("two_four").unsupported_reason(at)
    assert reason.startswith("mlp.up: The pattern 2:4")
    assert "10 outputs and 12 inputs" in reason
    assert "\n" not in reason
    at.linears = lambda: {"mlp.up": torch.nn.Linear(12, 16)}
    assert methods.get("two_four").unsupported_reason(at) is None


def test_a_bias_is_kept():
    linear = torch.nn.Linear(8, 8)
    at = View(linears=lambda: {"p": linear}, site=SITE)
    for name, settings in (("magnitude", {"keep": 0.5}), ("two_four", {"transposable": True})):
        ((_, part),) = methods.get(name).build(at, settings)
        assert isinstance(part, SparseLinear)
        assert torch.equal(part.bias, linear.bias)
