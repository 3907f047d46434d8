"""Mixers with heads compute what they computed before they shared `mixer/shared/heads.py`, and load what they saved.

Each number was recorded when every mixer still had projections, rotary embedding, grouped heads and padding of its own:
a weighted sum over all outputs and the last state of one run, in float64, from seeded initial weights. A part that gets
a weight drawn in another order, a position counted differently or a head grouped differently moves all of them.
"""

import pytest
import torch

from layersmith import catalogue

D, HEADS = 16, 4
ROPE = {"rope_theta": 100.0, "qk_norm": True, "n_kv_heads": 2}
TURNED = {"rope_theta": 100.0, "rope_fraction": 0.5, "rope_interleaved": True}
MASK = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0, 0], [1, 0, 1, 1, 0, 0, 1, 1, 1]]).bool()

#: Name, constructor arguments, and the sums over the runs of `RUNS`.
RECORDED = [
    ("softmax_attention", {},
     [4.6591640766, 9.9223422591, 4.6591640766, 9.9223422591]),
    ("softmax_attention", {"n_kv_heads": 1, "head_dim": 6, "bias": True, "out_bias": True, "scale": 0.3},
     [-0.6078747100, -3.3825774893, -0.6078747100, -3.3825774893]),
    ("softmax_attention", ROPE,
     [5.6277495841, 10.3783607402, 5.6277495841, 10.3783607402]),
    ("softmax_attention", {**TURNED, "window": 3},
     [-5.3243360994, -6.3575083432, -5.3243360994, -5.8832856210]),
    ("softmax_attention", {"causal": False, "rope_theta": 100.0, "n_kv_heads": 2, "window": 3},
     [-2.9181285294, 0.0521651747]),
    ("linear_attention", {},
     [0.6836813629, -2.6244815104, 0.6836813629, -2.6244815104]),
    ("linear_attention", {**ROPE, "feature_map": "hedgehog", "chunk": 2},
     [28.8141872964, 8.8079297559, 28.8141872964, 8.8079297559]),
    ("linear_attention", {**TURNED, "bias": True, "out_bias": True, "feature_map": "relu"},
     [29.9543993751, 1.8646730478, 29.9543993751, 1.8646730478]),
    ("linear_attention", {"causal": False, "n_kv_heads": 1, "head_dim": 6, "rope_theta": 100.0},
     [1.5321019353, 1.7724451418]),
    ("partial_attention", {"gated": True, **ROPE, "bias": True, "out_bias": True},
     [3.0367080447, 22.1225624678, 3.0367080447, 22.1225624678]),
    ("partial_attention", {"causal": False, "window": 4},
     [-3.8877890984, -3.0258655523]),
    ("shaped_attention", {"tau": 0.2},
     [10.5973017028, 17.5850149803, 10.5973017028, 17.5850149803]),
    ("shaped_attention", {"causal": False, "head_dim": 6},
     [10.6904834797, 13.4509801547]),
    ("deltanet", {},
     [15.5519621536, -16.7828843848, 15.5519621536, -2.2275186361]),
    ("deltanet", {"head_dim": 6, "conv": 1, "chunk": 2},
     [-25.3281384817, -4.3909461327, -25.3281384817, -6.6100159777]),
]  # fmt: skip

EVERY = {"bias": True, "out_bias": True, "qk_norm": True}
QKV = "q.weight q.bias k.weight k.bias v.weight v.bias"
NORMS = "q_norm.weight k_norm.weight"
#: The parameters of a saved mixer, in order, with every option that adds some.
PARAMETERS = {
    "softmax_attention": (EVERY, f"{QKV} o.weight o.bias {NORMS}"),
    "linear_attention": (
        {**EVERY, "feature_map": "hedgehog"},
        f"{QKV} o.weight o.bias {NORMS} phi_q.weight phi_k.weight",
    ),
    "partial_attention": (
        {**EVERY, "gated": True},
        " ".join(
            f"attention.{name}" for name in f"{QKV} o.up.weight o.up.bias o.down.weight o.down.bias {NORMS}".split()
        )
        + " o.weight o.bias gate.weight gate.bias",
    ),
    "shaped_attention": ({}, "q.weight k.weight v.weight o.weight"),
    "deltanet": ({}, "q.weight k.weight v.weight beta.weight conv.weight norm.weight o.weight"),
}


def build(name, config):
    """The part as a seed draws it, and then every parameter moved off 0 and 1. Uniform draws are equal everywhere."""
    torch.manual_seed(0)
    mixer = catalogue.build({"name": name, "d_model": D, "n_heads": HEADS, **config})
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(torch.rand_like(parameter) - 0.5)
    return mixer.double().eval()


def run(mixer, x, sizes, mask):
    """Outputs of x fed in chunks of these sizes, and the last state."""
    outputs, state = [], None
    masks = [None] * len(sizes) if mask is None else mask.split(sizes, dim=1)
    for part, part_mask in zip(x.split(sizes, dim=1), masks, strict=True):
        y, state = mixer(part, state, part_mask)
        outputs.append(y)
    return [torch.cat(outputs, dim=1), *(state or {}).values()]


#: Left, right and interior padding or none, at once or in chunks.
RUNS = {
    "whole": lambda m, x: run(m, x, [9], None),
    "padded": lambda m, x: run(m, x, [9], MASK),
    "decoded": lambda m, x: run(m, x, [4, 1, 1, 3], None),
    "decoded padded": lambda m, x: run(m, x, [4, 1, 1, 3], MASK),
}


@torch.no_grad()
def sums(name, config):
    """One number for each run; a mixer that cannot stream has the first two."""
    mixer = build(name, config)
    torch.manual_seed(1)
    x = 2 * torch.rand(3, 9, D, dtype=torch.float64) - 1
    found = []
    for one in list(RUNS.values())[: None if mixer.streams else 2]:
        flat = torch.cat([t.double().flatten() for t in one(mixer, x)])
        found.append(float((flat * torch.arange(len(flat), dtype=torch.float64).cos()).sum()))
    return found


@pytest.mark.parametrize(("name", "config", "recorded"), RECORDED)
def test_outputs_and_states_are_those_recorded(name, config, recorded):
    assert sums(name, config) == pytest.approx(recorded, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_saved_mixer_has_the_parameters_it_always_had(name):
    config, names = PARAMETERS[name]
    assert list(build(name, config).state_dict()) == names.split()
