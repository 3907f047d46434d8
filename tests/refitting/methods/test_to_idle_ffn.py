"""From a trained feed-forward to a few of its channels and one matrix for the others."""

import pytest
import torch

from layersmith.refitting import methods
from layersmith.refitting.methods.prune.to_idle_ffn import ToIdleFFN, nonlinear_part


def test_keeping_every_channel_is_the_original_and_fewer_are_worse(view):
    at, method = view("layers.1.ffn"), ToIdleFFN()
    error = {keep: at.local_error(method.build(at, {"keep": keep})) for keep in (1.0, 0.5, 0.25)}
    assert error[1.0] < 1e-6
    assert error[1.0] < error[0.5] < error[0.25]


def test_beats_the_linear_map_and_the_narrow_feed_forward_on_what_they_were_fitted_to(view):
    at = view("layers.1.ffn")
    at.holdout = at.fit
    error = {name: at.local_error(methods.get(name).build(at, settings)) for name, settings in
             (("idle_ffn", {"keep": 0.25}), ("width", {"keep": 0.25}), ("linear", {}))}  # fmt: skip
    assert error["idle_ffn"] < min(error["width"], error["linear"])


def test_linear_channels_are_found():
    torch.manual_seed(0)
    x = torch.randn(300, 8)
    hidden = torch.cat([x @ torch.randn(8, 3), torch.relu(x[:, :2])], dim=1)
    assert nonlinear_part(x, hidden)[:3].max() < 0.02 < nonlinear_part(x, hidden)[3:].min()


@pytest.mark.parametrize("budget", ["latency", "params", "bytes", "flops"])
def test_runs_by_default_where_it_saves(budget):
    assert "idle_ffn" in methods.chosen(None, [budget])
