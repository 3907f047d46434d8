"""Continued fractions along trained directions: bounded, and better than the linear map on the data of the fit."""

from layersmith.ffn.cofrgenet import CoFrGeNet
from layersmith.refitting import methods


def test_beats_the_linear_map_and_has_no_poles(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    method = methods.get("cofrgenet")
    many, few = (method.build(at, settings) for settings in method.options(at))
    linear = at.local_error(methods.get("linear").build(at, {}))
    assert at.local_error(many) < at.local_error(few) < 1.02 * linear
    part = next(m for _, stand_in in many for m in stand_in.modules() if isinstance(m, CoFrGeNet))
    assert part.fractions(at.inputs).abs().max() <= 0.5 + 1e-6  # a / (1 + a^2) is at most one half
