"""Trained sublayers in cheaper arithmetic: how far they are then off, and what carries over exactly."""

import pytest
import torch
import torch.nn.functional as F

from layersmith.refitting import methods


def test_an_exponential_by_squarings_comes_nearer_with_each(view):
    at, method = view("layers.1.attn"), methods.get("limit_softmax")
    errors = [at.local_error(method.build(at, {"squarings": n})) for n in (4, 5, 8)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 20


@pytest.mark.parametrize("site", ["layers.1.ffn", "layers.1.attn"])
def test_added_bits_lose_less_than_a_ninth_of_every_product(site, view):
    at = view(site)
    replacement = methods.get("piecewise_affine").build(at, {})
    assert {edit.path for edit, _ in replacement} == set(at.linears())
    for path, module in at.linears().items():
        part = next(part for edit, part in replacement if edit.path == path)
        assert torch.equal(part.weight, module.weight)
    assert 1e-4 < at.local_error(replacement) < 0.1


def test_a_gated_layer_becomes_the_nearest_plain_one(view):
    at = view("layers.1.ffn")
    ((_, part),) = methods.get("piecewise_gelu").build(at, {})
    assert torch.equal(part.up.weight, at.ffn.operator.gate.weight)
    at.holdout = at.fit  # where the output map was fitted
    error = at.local_error([*methods.get("piecewise_gelu").build(at, {})])
    assert error < at.local_error(methods.get("mean").build(at, {}))


def test_directions_of_neurons_are_all_that_a_swap_test_keeps(view):
    at = view("layers.1.ffn")
    ((_, part),) = methods.get("swap_test").build(at, {})
    trained = at.ffn.operator.gate.weight
    torch.testing.assert_close(F.normalize(part.up.weight, dim=-1), F.normalize(trained, dim=-1))
