"""The bundled layer: fitted features beat random read-outs and the same draw is found again."""

import torch

from layersmith.refitting import methods


def test_fitted_read_out_is_better_with_more_features(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    method = methods.get("snnk")
    errors = [at.local_error(method.build(at, {"features": m})) for m in (128, 64, 16)]
    assert errors == sorted(errors)
    assert errors[0] < at.local_error(methods.get("mean").build(at, {}))


def test_building_twice_draws_the_same_directions(view):
    at = view("layers.1.ffn")
    torch.manual_seed(3)
    before = torch.rand(1)
    torch.manual_seed(3)
    a, b = (methods.get("snnk").build(at, {"features": 32})[0][1].state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert torch.equal(torch.rand(1), before)  # and leaves the caller's random numbers alone
