"""From a trained feed-forward to a stack of narrow ones."""

from layersmith.refitting import methods
from layersmith.refitting.methods.replace.to_hourglass import ToHourglass


def test_one_step_with_every_channel_is_the_original(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit  # 96 tokens in 64 channels: the fit is held to its own data
    assert at.local_error(ToHourglass().build(at, {"depth": 1, "keep": 1.0})) < 1e-3


def test_a_second_step_lowers_the_error_and_both_beat_the_mean(view):
    at, method, mean = view("layers.1.ffn"), ToHourglass(), methods.get("mean")
    at.holdout = at.fit
    one = at.local_error(method.build(at, {"depth": 1, "keep": 0.25}))
    two = at.local_error(method.build(at, {"depth": 2, "keep": 0.5}))  # the same first step, and one more
    assert two < one < at.local_error(mean.build(at, {}))
