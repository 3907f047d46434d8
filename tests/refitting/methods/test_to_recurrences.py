"""Attention turned into a recurrence: the trained weights are in it, and what reads ahead is refused."""

from types import SimpleNamespace

import pytest
import torch

from layersmith.contract import Mixer
from layersmith.mixer.softmax import SoftmaxAttention
from layersmith.refitting import methods

NAMES = ["gated_deltanet", "gla", "mlstm", "retnet"]


@pytest.mark.parametrize("name", NAMES)
def test_carries_the_trained_maps(view, name):
    at, method = view("layers.1.attn"), methods.get(name)
    assert method.unsupported_reason(at) is None
    made = method.build(at, method.options(at)[0])[0][1]
    part = next(module for module in made.modules() if isinstance(module, Mixer))
    assert part.name == name
    trained = at.attention.operator.state_dict()
    assert {"q.weight", "k.weight", "v.weight", "o.weight"} <= trained.keys()
    for key, value in trained.items():
        assert torch.equal(part.state_dict()[key], value), key
    assert part.rope_theta == at.attention.operator.rope_theta


@pytest.mark.parametrize("name", NAMES)
def test_an_attention_that_reads_ahead_is_refused(name):
    ahead = SimpleNamespace(attention=SimpleNamespace(operator=SoftmaxAttention(16, 4, causal=False)))
    assert "reads the whole sequence" in methods.get(name).unsupported_reason(ahead)
    assert "not a softmax attention" in methods.get(name).unsupported_reason(SimpleNamespace(attention=None))
