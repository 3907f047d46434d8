"""TruKAN from a trained feed-forward: close to the nearest MLP, and closer with more knots."""

from layersmith.refitting import methods
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp


def test_it_is_the_nearest_mlp_up_to_the_fit_of_the_activation(view):
    at, method = view("layers.1.ffn"), methods.get("tru_kan")
    mlp = nearest_mlp(at)
    expected = mlp(at.inputs).detach()
    errors = []
    for settings in method.options(at):
        ((_, part),) = method.build(at, settings)
        errors.append(float((part(at.inputs).detach() - expected).square().sum() / expected.square().sum()))
    assert errors[0] < 1e-4
    assert errors[0] < errors[1] < 1e-2


def test_it_beats_a_linear_map_on_what_it_was_fitted_to(view):
    at, method = view("layers.1.ffn"), methods.get("tru_kan")
    at.holdout = at.fit
    linear = at.local_error(methods.get("linear").build(at, methods.get("linear").options(at)[0]))
    assert at.local_error(method.build(at, method.options(at)[0])) < linear
