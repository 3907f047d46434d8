"""From a trained GLU to nested ones: the whole is the original, and the channels that matter come first."""

import torch

from layersmith.refitting.methods.replace.to_nested_glu import ToNestedGLU


def test_the_whole_width_is_the_original(view):
    at = view("layers.1.ffn")
    assert at.local_error(ToNestedGLU().build(at, {"share": 1.0})) < 1e-6


def test_narrower_is_worse_and_the_first_channels_are_the_better_half(view):
    at, method = view("layers.1.ffn"), ToNestedGLU()
    errors = [at.local_error(method.build(at, settings)) for settings in method.options(at)]
    assert errors == sorted(errors)
    ((edit, half),) = method.build(at, {"share": 0.5})
    assert half.width == half.spec()["d_hidden"] // 2
    with torch.no_grad():  # the other half first
        for linear, dim in ((half.gate, 0), (half.up, 0), (half.down, 1)):
            linear.weight.copy_(linear.weight.flip(dim))
    assert at.local_error([(edit, half)]) > errors[2]
