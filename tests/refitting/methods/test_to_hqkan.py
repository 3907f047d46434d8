"""HQKAN from a trained feed-forward: below the error of the linear map of its rank, on what it was fitted to."""

from layersmith.refitting import methods
from layersmith.refitting.methods.least_squares import reduced_rank


def test_circuits_improve_on_the_linear_map_of_the_same_rank(view):
    at, method = view("layers.1.ffn"), methods.get("hqkan")
    at.holdout = at.fit
    for settings in method.options(at):
        up, down, constant = reduced_rank(at.inputs, at.targets, settings["d_bottleneck"])
        missing = at.targets - (at.inputs @ down.T @ up.T + constant)
        linear = float(missing.square().sum() / at.targets.square().sum())
        assert at.local_error(method.build(at, settings)) < linear


def test_a_wider_bottleneck_is_milder(view):
    at, method = view("layers.1.ffn"), methods.get("hqkan")
    assert [settings["d_bottleneck"] for settings in method.options(at)] == [4, 2]
    at.holdout = at.fit
    wide, narrow = (at.local_error(method.build(at, settings)) for settings in method.options(at))
    assert wide < narrow


def test_building_twice_gives_the_same(view):
    at, method = view("layers.1.ffn"), methods.get("hqkan")
    errors = {at.local_error(method.build(at, method.options(at)[0])) for _ in range(2)}
    assert len(errors) == 1
