"""From a trained GLU to one matrix with a mask."""

import torch

from layersmith.refitting import methods
from layersmith.refitting.methods.replace.to_mglu import ToMGLU


def test_exact_when_gate_and_value_use_separate_weights(view, llama):
    mlp = llama.model.layers[1].mlp
    saved = [mlp.gate_proj.weight.clone(), mlp.up_proj.weight.clone()]
    try:
        mask = torch.rand(64, 32, generator=torch.Generator().manual_seed(0)) > 0.5
        mlp.gate_proj.weight.mul_(mask)
        mlp.up_proj.weight.mul_(~mask)
        at = view("layers.1.ffn")
        at.holdout = at.fit
        assert at.local_error(ToMGLU().build(at, {"n_masks": 1})) < 1e-4
    finally:
        mlp.gate_proj.weight.copy_(saved[0])
        mlp.up_proj.weight.copy_(saved[1])


def test_beats_the_mean_output(view):
    at, mean = view("layers.1.ffn"), methods.get("mean")
    at.holdout = at.fit
    assert at.local_error(ToMGLU().build(at, {"n_masks": 1})) < at.local_error(mean.build(at, {}))
