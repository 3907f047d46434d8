"""A third layer that changes nothing."""

import pytest
import torch

from layersmith.ffn.shared.activations import activation
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from layersmith.refitting.methods.replace.to_deep_mlp import LIFT, ToDeepMLP


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_any_number_of_layers_is_the_nearest_mlp(view, layers):
    at = view("layers.1.ffn")
    replacement = ToDeepMLP().build(at, {"layers": layers})
    start = at.as_replacement(nearest_mlp(at))
    for deep, mlp in zip(at.run(replacement, at.holdout), at.run(start, at.holdout), strict=True):
        torch.testing.assert_close(deep, mlp, rtol=1e-4, atol=1e-4 * float(mlp.detach().abs().max()))


@pytest.mark.parametrize("act", LIFT)
def test_lifts_reach_where_the_activation_is_the_identity(act):
    run = activation(act)
    values = run(torch.linspace(-20, 20, 4001, dtype=torch.double)) + LIFT[act]
    assert (run(values) - values).abs().max() < 1e-6


def test_an_activation_without_an_identity_range_is_refused(view):
    at = view("layers.1.ffn")
    at.ffn.operator._config["act"] = "tanh"
    try:
        assert "tanh is nowhere the identity" in ToDeepMLP().unsupported_reason(at)
    finally:
        at.ffn.operator._config["act"] = "silu"
