"""Attention turned into a recurrence: its weights are carried, training brings it closer, and what it refuses."""

import pytest
import torch

from layersmith.refitting import methods


@pytest.mark.parametrize("name", ["gated_deltanet", "gla", "retnet"])
def test_carries_the_trained_maps(view, name):
    at = view("layers.1.attn")
    method = methods.get(name)
    assert method.unsupported_reason(at) is None
    made = method.build(at, method.options(at)[0])
    part = made.module.mixer if hasattr(made.module, "mixer") else made.module
    trained = at.attention.operator.state_dict()
    assert trained.keys() <= part.state_dict().keys()
    for key, value in trained.items():
        assert torch.equal(part.state_dict()[key], value), key
