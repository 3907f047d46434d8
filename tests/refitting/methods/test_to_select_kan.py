"""S-KAN from a trained feed-forward: exact from a plain MLP, one basis per channel, better than the nearest MLP."""

import torch

from layersmith.ffn.mlp import MLP
from layersmith.refitting import methods
from layersmith.refitting.methods.replace.mlp_start import nearest_mlp
from tests.refitting.methods.test_to_kan import as_plain_mlp


def test_a_plain_mlp_is_carried_over_exactly(view):
    torch.manual_seed(0)
    mlp = MLP(32, 64, act="relu")
    ((_, part),) = methods.get("select_kan").build(as_plain_mlp(view("layers.1.ffn"), mlp), {"size": 6})
    assert part.spec()["pruned"]
    x = 3 * torch.randn(50, 32)
    torch.testing.assert_close(part(x), mlp(x), rtol=1e-5, atol=1e-6)


def test_from_a_gated_one_the_edges_improve_on_the_nearest_mlp(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    before = at.local_error(at.as_replacement(nearest_mlp(at)))
    linear = at.local_error(methods.get("linear").build(at, methods.get("linear").options(at)[0]))
    ((edit, part),) = methods.get("select_kan").build(at, {"size": 6})
    assert at.local_error([(edit, part)]) < min(before, linear)
    assert part.down.coefficients.any()
