"""Models that bring settings of their own, wrappers around models, and inputs made from what is there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy import Replay, find_sites, replacement_for, swap
from layersmith.anatomy.limits import longest_input
from layersmith.anatomy.probe import example_inputs, with_decoder_ids
from layersmith.anatomy.recognise import as_attention, as_ffn
from layersmith.anatomy.running import evaluating, plainly, uncompiled, weighing
from layersmith.checkpoint.hf import LayersmithConfig, LayersmithModel
from layersmith.data.windows import vocabulary
from layersmith.errors import UserError
from layersmith.ffn.glu import GLU
from layersmith.ffn.zero import Zero
from layersmith.measuring.calls import capture_calls
from layersmith.measuring.latency import model_inputs
from layersmith.measuring.shape import Shape
from layersmith.mixer.continuum_attention import ContinuumAttention
from layersmith.mixer.gmlp import GMLP
from layersmith.mixer.raft_mlp import RaftMLP
from layersmith.mixer.softmax import SoftmaxAttention
from tests.architectures.every import EVERY


def result(name: str) -> LayersmithModel:
    """What a refit leaves: the model with another attention and another feed-forward in its first block."""
    model = EVERY[name].model()
    sites = find_sites(model).sites
    mixer = next(s for s in sites if s.kind == "mixer" and not s.cross and not s.locked)
    edits = replacement_for(model, mixer, SoftmaxAttention(mixer.d_model, 4, causal=mixer.causal))
    for ffn in [s for s in sites if s.kind == "ffn"][:1]:
        edits += replacement_for(model, ffn, GLU(ffn.d_model, 24))
    config = LayersmithConfig(model.config, type(model).__name__, [edit.to_json() for edit, _ in edits])
    return LayersmithModel(config).eval()


class Wrapper(nn.Module):
    """What PeftModel is to its base model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.base_model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base_model"), name)


RESULTS = (
    "llama",
    "granite_hybrid",
    "qwen3_next",
    "llava",
    "gpt2",
    "mamba",
    "bloom",
    "bert",
    "modernbert",
    "t5",
    "bart",
)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_can_be_taken_apart_again(name: str) -> None:
    """Sites, partial runs, recognition, swaps, and the calls of a decoding step: no cache "filled by another model"."""
    everything(result(name), decodes=name in ("llama", "granite_hybrid", "qwen3_next", "llava", "gpt2", "mamba"))


@pytest.mark.parametrize("name", ["llama", "granite_moe", "llava"])
def test_a_wrapper_is_no_obstacle(name: str) -> None:
    everything(Wrapper(EVERY[name].model()), decodes=True)


def everything(model: Any, decodes: bool) -> None:
    anatomy, inputs = find_sites(model), example_inputs(model)
    with torch.no_grad():
        hidden = Replay(model, anatomy).block_inputs({"input_ids": inputs["input_ids"]})
    assert all(h.isfinite().all() for h in hidden)
    found = [(as_ffn if s.kind == "ffn" else as_attention)(model, s) for s in anatomy.sites]
    assert any(found)
    for site in anatomy.sites:
        if not site.locked:
            with swap(model, {site: Zero(site.d_model)}, anatomy), torch.no_grad():
                model(**inputs)
    if decodes:
        paths = [path for s in anatomy.sites for path in s.modules]
        calls = capture_calls(model, paths, model_inputs(model, Shape("decode", 1, 6)))
        for path, call in calls.items():
            with torch.no_grad():
                call.step(model.get_submodule(path))()


def test_a_compiled_model_is_looked_at_uncompiled() -> None:
    model = EVERY["granite_moe"].model()
    expected = [(s.name, s.kind, s.causal) for s in find_sites(model).sites]

    def refuse(graph: Any, example: Any) -> Any:
        raise AssertionError("nothing is compiled for a look")

    compiled: Any = torch.compile(model, backend=refuse)
    assert [(s.name, s.kind, s.causal) for s in find_sites(compiled).sites] == expected
    assert uncompiled(compiled) is model
    assert uncompiled(model) is model


def test_settings_are_put_back() -> None:
    model = EVERY["llava"].model()
    del model.config.text_config.use_cache
    before = [dict(vars(c)) for c in (model.config, model.config.text_config)]
    with plainly(model):
        assert model.config.text_config.use_cache is False
    assert [dict(vars(c)) for c in (model.config, model.config.text_config)] == before


def test_gradients_are_left_as_they_were() -> None:
    model = EVERY["llama"].model()
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), plainly(model):
            assert torch.is_grad_enabled() == enabled
    with torch.inference_mode(), plainly(model):
        assert not torch.is_grad_enabled()
        assert not torch.ones(1).is_inference()
    with evaluating(model):
        assert not torch.is_grad_enabled()


def test_a_model_that_does_not_run_is_refused_with_its_own_words() -> None:
    model = EVERY["mixtral"].model().double()
    with pytest.raises(UserError, match=r"MixtralForCausalLM does not run on input_ids \(2, 8\).*Double"):
        find_sites(model)
    with pytest.raises(UserError, match="Check the example"):
        find_sites(EVERY["llama"].model(), {"input_ids": torch.zeros(2, 8)})


def test_decoder_ids_are_the_input_shifted_by_the_model() -> None:
    ids = torch.tensor([[7, 8, 9]])
    for name, start in (("t5", 0), ("bart", 2), ("marian", 0)):
        made = with_decoder_ids(EVERY[name].model(), {"input_ids": ids})
        assert made["decoder_input_ids"].tolist() == [[start, 7, 8]], name
    given = {"input_ids": ids, "labels": ids}
    assert with_decoder_ids(EVERY["t5"].model(), given) is given
    text = {"input_ids": ids}
    assert with_decoder_ids(EVERY["llama"].model(), text) is text
    sound = with_decoder_ids(EVERY["whisper"].model(), {"input_features": torch.zeros(2, 8, 48)})
    assert sound["decoder_input_ids"].tolist() == [[3], [3]]


def test_the_vocabulary_is_that_of_the_embedding() -> None:
    model = EVERY["llama"].model()
    assert vocabulary(model) == 96
    model.resize_token_embeddings(104)
    model.config.vocab_size = 96  # a config that was not told
    assert vocabulary(model) == 104
    assert vocabulary(EVERY["vit"].model()) is None


def test_the_config_is_not_trusted_about_positions() -> None:
    """A key that promises more than the table holds, and one that is missing."""
    config = tf.BertConfig(
        vocab_size=96, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48
    )
    config.max_position_embeddings = 40
    model = tf.BertForMaskedLM(config).eval()
    config.max_position_embeddings = 4000
    assert longest_input(model) == 40
    assert longest_input(nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 24, batch_first=True), 1)) is None


def test_mixers_with_weights_for_positions_limit_the_input() -> None:
    mixers = [GMLP(8, 8, length=24), RaftMLP(8, [4, 5]), ContinuumAttention(8, 2), SoftmaxAttention(8, 2)]
    assert longest_input(nn.ModuleList(mixers)) == 20
    assert longest_input(nn.ModuleList(mixers[2:])) is None


def test_two_layers_that_are_one_module() -> None:
    model = EVERY["llama"].model()
    model.model.layers[1] = model.model.layers[0]
    anatomy = find_sites(model)
    assert {s.name: s.calls for s in anatomy.sites if s.role != "final_norm"} == dict.fromkeys(
        ("layers.0", "layers.0.attn_norm", "layers.0.attn", "layers.0.ffn_norm", "layers.0.ffn"), 2
    )
    assert "several places" in anatomy.site("layers.0").locked
    with swap(model, {"layers.0.ffn": Zero(32)}, anatomy):
        assert model.model.layers[1].mlp is model.model.layers[0].mlp
    assert model.model.layers[1] is model.model.layers[0]


def test_norms_and_head_in_float32_beside_a_half_body() -> None:
    llama = EVERY["llama"].model().bfloat16()
    llama.model.norm.float()
    llama.lm_head.float()
    bert = EVERY["bert"].model().bfloat16()
    for module in bert.modules():
        if isinstance(module, nn.LayerNorm):
            module.float()
    for name, model in (("llama", llama), ("bert", bert)):
        anatomy = find_sites(model)
        assert anatomy.sites == find_sites(EVERY[name].model()).sites
        assert Replay(model, anatomy).exact
        assert all(as_ffn(model, s) for s in anatomy.of_kind("ffn"))
        assert all(as_attention(model, s) for s in anatomy.of_kind("mixer"))


def test_attention_weights_are_returned_inside_and_the_kernel_is_put_back_whatever_happens() -> None:
    model = tf.LlamaForCausalLM(
        tf.LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    ).eval()
    attention, seen = model.model.layers[0].self_attn, []
    handle = attention.register_forward_hook(lambda module, args, output: seen.append(output[1]))
    before = model.config._attn_implementation
    assert before != "eager"

    def fails() -> None:
        with weighing(model) as able:
            assert able
            model(torch.arange(6)[None])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    model(torch.arange(6)[None])
    handle.remove()
    assert seen[0].shape == (1, 4, 6, 6)
    assert seen[1] is None
    assert model.config._attn_implementation == before
    with weighing(torch.nn.Linear(2, 2)) as able:
        assert not able
