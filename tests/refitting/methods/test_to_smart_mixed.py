"""From a trained feed-forward to neurons with activations of their own."""

import torch

from layersmith.refitting import methods
from layersmith.refitting.methods.replace.to_smart_mixed import ToSmartMixed, correlation


def test_more_activations_follow_the_trained_layer_better_than_the_mean(view):
    at, mean = view("layers.1.ffn"), methods.get("mean")
    at.holdout = at.fit
    for settings in ToSmartMixed().options(at):
        assert at.local_error(ToSmartMixed().build(at, settings)) < at.local_error(mean.build(at, {}))


def test_neurons_take_the_activation_that_follows_them():
    torch.manual_seed(0)
    z = torch.randn(500, 3)
    target = torch.stack([z[:, 0].relu(), torch.tanh(z[:, 1]), -3 * torch.sigmoid(z[:, 2]) + 1], dim=1)
    fit = torch.stack([correlation(act(z), target) for act in (torch.relu, torch.tanh, torch.sigmoid)], dim=-1)
    assert fit.argmax(-1).tolist() == [0, 1, 2]
    assert correlation(torch.ones(5, 1), torch.randn(5, 1)).item() == 0
