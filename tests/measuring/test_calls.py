import copy

import pytest
import torch
from torch import nn
from transformers import LlamaForSequenceClassification, LlamaModel

from layersmith.errors import UserError
from layersmith.measuring.cache import cache_of, cache_tensors
from layersmith.measuring.calls import capture_call, capture_calls
from layersmith.measuring.divergence import run
from layersmith.measuring.latency import model_inputs
from layersmith.measuring.shape import Shape


def _first(output: object) -> torch.Tensor:
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("shape", [Shape("prefill", 2, 7), Shape("decode", 2, 7)])
@pytest.mark.parametrize("path", ["model.layers.1.self_attn", "model.layers.1.mlp", "model.layers.1"])
@torch.no_grad()
def test_a_captured_call_gives_what_the_sublayer_gave_in_place(tiny: nn.Module, path: str, shape: Shape) -> None:
    inputs = model_inputs(tiny, shape)
    seen: list[torch.Tensor] = []
    handle = tiny.get_submodule(path).register_forward_hook(lambda m, a, out: seen.append(_first(out)))
    call = capture_call(tiny, path, inputs)
    handle.remove()
    step = call.step(tiny.get_submodule(path))
    for _ in range(3):  # a cache among the arguments is put back before each call
        torch.testing.assert_close(_first(step()), seen[0], rtol=0, atol=0)


@torch.no_grad()
def test_another_module_can_be_timed_in_its_place(tiny: nn.Module) -> None:
    call = capture_call(tiny, "model.layers.0.mlp", model_inputs(tiny, Shape("prefill", 1, 5)))
    other = copy.deepcopy(tiny.model.layers[0].mlp)
    other.down_proj.weight.zero_()
    assert call.step(other)().abs().max() == 0


def test_calls_of_one_decode_pass_do_not_disturb_each_other(tiny: nn.Module) -> None:
    inputs = model_inputs(tiny, Shape("decode", 1, 7))
    paths = ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    calls = capture_calls(tiny, paths, inputs)
    lengths = []
    for path in [*paths, *reversed(paths)]:
        attention = tiny.get_submodule(path)
        calls[path].step(attention)()
        lengths.append(calls[path].kwargs["past_key_values"].layers[attention.layer_idx].get_seq_length())
    assert lengths == [8, 8, 8, 8]  # 7 in the cache and the new one, every time
    assert inputs["past_key_values"].get_seq_length() == 8  # the same cache; the next step rewinds it


def test_capturing_leaves_the_inputs_as_they_were(tiny: nn.Module) -> None:
    inputs = model_inputs(tiny, Shape("decode", 1, 7))
    capture_calls(tiny, ["model.layers.0"], inputs)
    assert inputs["past_key_values"].get_seq_length() == 7


def test_captured_tensors_are_copies(tiny: nn.Module) -> None:
    inputs = model_inputs(tiny, Shape("prefill", 1, 5))
    call = capture_call(tiny, "model.embed_tokens", inputs)
    before = call.args[0].clone()
    inputs["input_ids"].zero_()
    assert torch.equal(call.args[0], before)


def test_a_module_that_is_never_called_is_named(tiny: nn.Module) -> None:
    tiny.spare = nn.Linear(2, 2)
    with pytest.raises(UserError, match="does not call: spare"):
        capture_call(tiny, "spare", model_inputs(tiny, Shape("prefill", 1, 5)))
    assert not tiny.spare._forward_pre_hooks


@pytest.mark.parametrize("model_class", [LlamaForSequenceClassification, LlamaModel])
@torch.no_grad()
def test_a_model_that_does_not_write_makes_no_cache_either(tiny: nn.Module, model_class: type) -> None:
    """Its config asks for one, and a call captured with it could be repeated by the same attention only."""
    model = model_class(tiny.config).eval()
    assert model.config.use_cache
    inputs = model_inputs(model, Shape("prefill", 1, 5))
    paths = [name for name, _ in model.named_modules() if name.endswith("self_attn")]
    for call in capture_calls(model, paths, inputs).values():
        assert not [t for t in cache_tensors(call.kwargs.get("past_key_values"))]
    assert not cache_of(run(model, {"input_ids": inputs["input_ids"]}))
