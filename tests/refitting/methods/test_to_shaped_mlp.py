"""From a ReLU MLP without biases the shaped MLP is exact; from a gated feed-forward it beats the floor of the mean."""

import torch

from layersmith.ffn.mlp import MLP
from layersmith.refitting import methods
from layersmith.refitting.methods.replace import to_shaped_mlp


def test_a_relu_mlp_comes_back(view, monkeypatch):
    at = view("layers.1.ffn")
    torch.manual_seed(0)
    mlp = MLP(32, 16, act="relu", bias=False)
    monkeypatch.setattr(to_shaped_mlp, "nearest_mlp", lambda view: mlp)
    at.targets = mlp(at.inputs).detach()
    ((_, part),) = methods.get("shaped_mlp").build(at, {"below": 0.0})
    torch.testing.assert_close(part(at.inputs), at.targets, rtol=1e-2, atol=2e-2)


def test_it_beats_the_mean(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    error = at.local_error(methods.get("shaped_mlp").build(at, {"below": 0.2}))
    assert error < at.local_error(methods.get("mean").build(at, {}))
