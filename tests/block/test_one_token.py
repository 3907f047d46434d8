"""When a layer takes one token by one call and when its own lines run: nothing stale is read, nobody passed over."""

import pytest
import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.utils import parametrize
from transformers import DynamicCache

from layersmith.anatomy.calls import BlockCall
from layersmith.block import series
from layersmith.kernels import native
from layersmith.linear.dense import Dense
from layersmith.linear.quantized import QuantizedLinear
from layersmith.norm.layer_norm import LayerNorm
from layersmith.norm.rms_norm import RMSNorm
from tests.kernels.test_step import MIXERS, D, made, served, step_by_step

__all__ = ["served"]

INSIDE = ("norm", "mixer", "mixer.qkv", "mixer.o", "ffn_norm", "ffn", "ffn.gate_up", "ffn.down")
FORMATS = ["8 bits", "one_row", "4 bits x int8", "int8"]
X = torch.randn(1, 9, D, generator=torch.Generator().manual_seed(1))


def layer_of(**changes):
    return made({**MIXERS["grouped"], **changes}, {"bias": True}, FORMATS)


@torch.no_grad()
def by_both_ways(layer, x=X):
    """The outputs of three single tokens after six, once they have been found to be those of the lines of `series`."""
    got = step_by_step(layer, x, 6)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(series, "one_token", lambda *args: None)
        want = step_by_step(layer, x, 6)[0]
    assert torch.equal(got, want)
    return got[:, 6:]


def test_loaded_numbers_are_seen(served):
    layer, other = layer_of(), layer_of()
    other.ffn.gate_up.packed.bitwise_xor_(1)
    other.ffn_norm.weight.mul_(1.5)
    first = by_both_ways(layer)
    layer.load_state_dict(other.state_dict())
    second = by_both_ways(layer)
    assert not torch.equal(first, second)
    assert torch.equal(second, by_both_ways(other))
    assert len(served) == 9


def test_moved_tensors_are_seen(served):
    layer = layer_of()
    first = by_both_ways(layer)
    assert len(served) == 3
    by_both_ways(layer.to(torch.bfloat16), X.bfloat16())
    assert len(served) == 3
    back = by_both_ways(layer.float())  # rounded meanwhile
    assert len(served) == 6
    assert not torch.equal(first, back)
    layer.norm.to(torch.bfloat16)  # which takes a token in float32 too
    by_both_ways(layer)
    assert len(served) == 6


def test_replaced_tensors_are_seen(served):
    layer = layer_of()
    first = by_both_ways(layer)
    layer.mixer.qkv.packed = layer.mixer.qkv.packed ^ 1
    second = by_both_ways(layer)
    layer.mixer.o.weight = nn.Parameter(layer.mixer.o.weight.flip(0), requires_grad=False)
    third = by_both_ways(layer)
    layer.ffn_norm.bias = None
    fourth = by_both_ways(layer)
    assert len(served) == 12
    for one, other in ((first, second), (second, third), (third, fourth)):
        assert not torch.equal(one, other)
    layer.mixer.o.weight = nn.Parameter(torch.randn(D, D).T, requires_grad=False)  # not as the kernel reads it
    by_both_ways(layer)
    assert len(served) == 12


@pytest.mark.parametrize(
    ("path", "part", "taken"),
    [
        ("ffn.down", QuantizedLinear(96, D, 8, 16), 3),
        ("ffn.down", QuantizedLinear(96, D, 3, 32), 0),
        ("ffn.down", QuantizedLinear(96, D, 8, 32, input_bits=8), 0),
        ("ffn.down", Dense(96, D), 0),
        ("mixer.o", nn.Linear(D, D), 0),
        ("mixer.o", nn.Sequential(nn.Linear(D, D)), 0),
        ("norm", RMSNorm(D, eps=0.5), 3),
        ("norm", LayerNorm(D), 0),
        ("ffn_norm", nn.Identity(), 0),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_replaced_parts_are_seen(path, part, taken, served):
    layer = layer_of()
    first = by_both_ways(layer)
    layer.set_submodule(path, part.requires_grad_(False))
    assert not torch.equal(first, by_both_ways(layer))
    assert len(served) == 3 + taken


class Doubled(RMSNorm):
    def forward(self, x):
        return 2 * super().forward(x)


class Double(nn.Module):
    def forward(self, weight):
        return 2 * weight


def test_what_computes_something_else_under_the_same_name_is_not_passed_over(served):
    first, layer = by_both_ways(layer_of()), layer_of()
    layer.norm = Doubled(D, bias=True).requires_grad_(False)
    assert not torch.equal(first, by_both_ways(layer))
    layer = layer_of()
    parametrize.register_parametrization(layer.mixer.o, "weight", Double())
    assert not torch.equal(first, by_both_ways(layer))
    assert len(served) == 3


@pytest.mark.parametrize("path", INSIDE)
def test_who_waits_for_a_part_to_be_called_is_not_passed_over(path, served):
    layer, seen = layer_of(), []
    first = by_both_ways(layer)
    part, run = layer.get_submodule(path), type(layer.get_submodule(path)).forward
    for wait in (part.register_forward_hook, part.register_forward_pre_hook):
        handle = wait(lambda *args: seen.append(1))
        by_both_ways(layer)
        assert len(seen) == 8  # six tokens at once and three alone, both ways
        seen.clear()
        handle.remove()
    part.forward = lambda *args: seen.append(1) or run(part, *args)
    by_both_ways(layer)
    assert len(seen) == 8
    del part.forward
    assert len(served) == 3
    assert torch.equal(first, by_both_ways(layer))
    assert len(served) == 6


@torch.no_grad()
def test_who_waits_for_all_modules_is_not_passed_over(served):
    layer, seen = layer_of(), []
    handle = register_module_forward_hook(lambda module, *args: seen.append(module))
    try:
        step_by_step(layer, X, 8)
    finally:
        handle.remove()
    assert not served
    assert seen.count(layer.ffn.down) == 2


@torch.no_grad()
def test_only_a_single_real_token_in_float32_without_gradients_is_taken(served):
    layer = layer_of()
    state = layer.keeper.settled(layer(X[:, :6])[1])
    layer(X[:, 6:8], state)
    layer(X[:, 6:7], state, torch.ones(1, 1, dtype=torch.bool))
    layer(X[:, 6:7], layer(X[:, :6])[1])  # without room
    layer(X[:, 6:7], layer.keeper.settled(layer(X[:, :6], mask=torch.ones(1, 6, dtype=torch.bool))[1]))
    step_by_step(layer, X.expand(2, -1, -1), 7)
    with torch.autocast("cpu", torch.bfloat16):
        step_by_step(layer, X, 7)
    with torch.enable_grad():
        layer(X[:, 6:7], state)
    step_by_step(layer.double(), X.double(), 7)
    assert not served
    layer.float()(X[:, 6:7], state)
    assert len(served) == 1


@pytest.mark.parametrize("changes", [{"window": 5}, {"qk_norm": True}, {"log_length": True}], ids=str)
def test_attention_that_the_kernel_does_not_compute_is_its_own(changes, served):
    by_both_ways(layer_of(**changes))
    assert not served


def test_layers_of_another_kind_run_as_they_are(served):
    kinds = [
        {"norm_position": "post"},
        {"residual": {"mixer": [1.0, 0.5], "ffn": [1.0, 1.0]}},
        {"residual": {"mixer": [1.0, 1.0], "ffn": [0.5, 1.0]}},
        {"first": {"norm": {"name": "rms_norm"}, "ffn": {"name": "fused_glu", "d_hidden": 8, "one_row": True}}},
        {"ffn": {"name": "fused_glu", "d_hidden": 96, "act": "gelu", "one_row": True}},
        {"ffn": {"name": "fused_glu", "d_hidden": 96}},
        {"sub_norm": {"name": "rms_norm"}, "mixer": {"name": "fused_attention", "n_heads": 4}},
        {"mixer": {"name": "softmax_attention", "n_heads": 4}},
    ]
    spec = layer_of().spec()
    for kind in kinds:
        given = {name: value for name, value in {**spec, **kind}.items() if name != "name"}
        by_both_ways(series.Series(**given).requires_grad_(False))
    assert not served


@torch.no_grad()
def test_compiled_as_one_graph_it_is_what_it_was(served):
    layer = made({**MIXERS["plain"], "one_row": False})
    state = layer(X[:, :6])[1]
    want = layer(X[:, 6:7], state)[0]
    got = torch.compile(layer, fullgraph=True, backend="aot_eager")(X[:, 6:7], state)[0]
    torch.testing.assert_close(got, want)
    assert not served


@torch.no_grad()
def test_without_kernels_its_own_lines_run(served, monkeypatch):
    layer = layer_of()
    monkeypatch.setattr(native, "_load", lambda: False)
    step_by_step(layer, X, 6)
    assert not served


@torch.no_grad()
def test_in_a_model_s_cache_it_finds_room_and_can_be_taken_back(served):
    layer, cache = made(MIXERS["grouped"]), DynamicCache()
    call = BlockCall(layer, ["hidden_states", "attention_mask", "past_key_values"], 0, 0)
    want = call(X)
    got = [call(X[:, :6], past_key_values=cache)] + [call(X[:, i : i + 1], past_key_values=cache) for i in (6, 7)]
    assert len(served) == 2
    torch.testing.assert_close(torch.cat(got, 1), want[:, :8], atol=1e-5, rtol=0)
    cache.layers[0].crop(-1)
    torch.testing.assert_close(call(X[:, 7:8], past_key_values=cache), want[:, 7:8], atol=1e-5, rtol=0)
    assert cache.get_seq_length() == 8
    assert len(served) == 3
