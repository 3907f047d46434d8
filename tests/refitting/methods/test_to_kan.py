"""KAN from a trained feed-forward: exact from a plain MLP, better than the nearest MLP from a gated one."""

import pytest
import torch

from layersmith.ffn.mlp import MLP
from layersmith.refitting import methods
from layersmith.refitting.methods.replace.kan_start import reach
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp


def as_plain_mlp(at, operator):
    """The same view with a plain MLP as the recognised sublayer."""
    at.__dict__["ffn"] = type("Recognised", (), {"operator": operator})()
    return at


@pytest.mark.parametrize("settings", [{"basis": "b_spline", "size": 8}, {"basis": "fourier", "size": 8}])
def test_a_plain_mlp_is_carried_over_exactly(view, settings):
    torch.manual_seed(0)
    mlp = MLP(32, 64)
    ((_, kan),) = methods.get("kan").build(as_plain_mlp(view("layers.1.ffn"), mlp), settings)
    x = 3 * torch.randn(50, 32)
    torch.testing.assert_close(kan(x), mlp(x), rtol=1e-5, atol=1e-6)


def test_from_a_gated_one_the_edges_improve_on_the_nearest_mlp(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    before = at.local_error(at.as_replacement(nearest_mlp(at)))
    linear = at.local_error(methods.get("linear").build(at, methods.get("linear").options(at)[0]))
    for settings in methods.get("kan").options(at):
        assert at.local_error(methods.get("kan").build(at, settings)) < min(before, linear)


def test_the_interval_of_silence_is_not_empty():
    assert reach(torch.zeros(3, 2)) == 1.0
    assert reach(torch.ones(3, 2), torch.zeros(3, 2)) == 4.0
