"""AF-KAN from a trained feed-forward: it follows its inputs, and predicts better than a linear map."""

import torch

from layersmith.refitting import methods


def test_reduced_inputs_follow_the_inputs(view):
    at, method = view("layers.1.ffn"), methods.get("af_kan")
    ((_, part),) = method.build(at, method.options(at)[0])
    reduced = part.up.reduced(at.inputs)
    correlation = torch.corrcoef(torch.stack([reduced.flatten(), at.inputs.flatten()]))[0, 1]
    assert correlation > 0.8


def test_it_beats_a_linear_map_on_what_it_was_fitted_to(view):
    at, method = view("layers.1.ffn"), methods.get("af_kan")
    at.holdout = at.fit
    linear = at.local_error(methods.get("linear").build(at, methods.get("linear").options(at)[0]))
    assert all(at.local_error(method.build(at, settings)) < linear for settings in method.options(at))
