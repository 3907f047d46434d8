"""Every supported architecture's sublayers as our operators, put back without a difference."""

import pytest
import torch
import transformers as tf
from torch import nn

from layersmith.anatomy.observe import observe
from layersmith.anatomy.recognise import NotRecognised, as_attention, as_ffn, recognise
from layersmith.anatomy.sites import find_sites
from layersmith.anatomy.swap import swap
from tests.anatomy.families import BY_NAME, FAMILIES
from tests.architectures.every import EVERY

#: What is not recognised, and why: routed experts; a position bias in the scores; projections that are no modules.
NO_FFN = {"mixtral"}
NO_ATTENTION = {"t5", "torch_pre_norm", "torch_post_norm"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_every_feed_forward_and_attention(family):
    model = family.model()
    anatomy = find_sites(model)
    found = {}
    for site in anatomy.sites:
        if site.kind == "ffn":
            result = as_ffn(model, site)
            assert (result is None) == (family.name in NO_FFN), site.name
        elif site.kind == "mixer" and not site.cross:
            result = as_attention(model, site)
            assert (result is None) == (family.name in NO_ATTENTION), site.name
        else:
            continue
        if result is not None:
            found[site.name] = result
    with torch.no_grad():
        before = model(**family.inputs())
        with swap(model, {name: r.operator for name, r in found.items()}, anatomy):
            after = model(**family.inputs())
    before, after = (out if isinstance(out, torch.Tensor) else out[0] for out in (before, after))
    if (mask := family.inputs().get("attention_mask")) is not None:
        before, after = before[mask.bool()], after[mask.bool()]
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    paths = dict(model.named_modules())
    assert all(path in paths for r in found.values() for path in r.parts.values())


@pytest.mark.parametrize("name", [f.name for f in FAMILIES if f.generates and f.name != "t5"])
def test_generation_with_the_recognised_operators(name):
    family = BY_NAME[name]
    model = family.model()
    anatomy = find_sites(model)
    operators = {}
    for site in anatomy.sites:
        result = as_ffn(model, site) or as_attention(model, site)
        if result is not None:
            operators[site.name] = result.operator
    inputs = {k: v for k, v in family.inputs().items() if k != "decoder_input_ids"}
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 3):
        original = model.generate(**inputs, num_beams=beams, **options)
        with swap(model, operators, anatomy):
            assert torch.equal(model.generate(**inputs, num_beams=beams, **options), original)


@pytest.mark.parametrize("act", ["relu", "gelu", "gelu_pytorch_tanh", "silu", "quick_gelu"])
@pytest.mark.parametrize("scale", [0.0005, 0.02, 1.0])
def test_activations_are_told_apart_whatever_the_size_of_the_weights(act, scale):
    torch.manual_seed(0)
    ours = {"gelu_pytorch_tanh": "gelu_tanh"}.get(act, act)
    model = tf.OPTForCausalLM(
        tf.OPTConfig(
            vocab_size=32,
            hidden_size=16,
            word_embed_proj_dim=16,
            ffn_dim=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            activation_function=act,
            init_std=scale,
        )
    )
    site = find_sites(model).site("layers.0.ffn")
    assert as_ffn(model, site).operator.spec()["act"] == ours


def test_half_precision_models():
    model = BY_NAME["llama"].model().bfloat16()
    anatomy = find_sites(model)
    ffn = as_ffn(model, anatomy.site("layers.0.ffn")).operator
    attention = as_attention(model, anatomy.site("layers.0.attn")).operator
    mlp = model.model.layers[0].mlp
    assert ffn.spec()["act"] == "silu"
    assert ffn.gate.weight.dtype == attention.q.weight.dtype == torch.bfloat16
    assert torch.equal(ffn.gate.weight, mlp.gate_proj.weight)


def test_gate_and_up_the_other_way_round():
    model = BY_NAME["llama"].model()

    class Swapped(nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.one, self.two, self.three = mlp.up_proj, mlp.gate_proj, mlp.down_proj

        def forward(self, x):
            return self.three(self.one(x) * torch.relu(self.two(x)))

    model.model.layers[0].mlp = Swapped(model.model.layers[0].mlp)
    found = as_ffn(model, find_sites(model).site("layers.0.ffn"))
    assert found.operator.spec()["act"] == "relu"
    assert found.parts["gate"].endswith("two")


def test_one_matrix_for_gate_and_up():
    torch.manual_seed(0)
    model = tf.Phi3ForCausalLM(
        tf.Phi3Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    anatomy = find_sites(model)
    assert set(as_ffn(model, anatomy.site("layers.0.ffn")).parts) == {"gate_up", "down"}
    attention = as_attention(model, anatomy.site("layers.0.attn"))
    assert set(attention.parts) == {"qkv", "o"}
    assert attention.operator.spec()["n_kv_heads"] == 2


def test_a_frozen_table_is_not_taken_for_plain_attention():
    model = BY_NAME["llama"].model()
    model.model.layers[0].self_attn.register_buffer("bias", torch.ones(4, 4))
    with pytest.raises(NotRecognised, match="tables"):
        recognise(model, find_sites(model).site("layers.0.attn"))


def test_scaled_rotary_embeddings_are_not_taken_for_plain_ones():
    torch.manual_seed(0)
    config = BY_NAME["llama"].model().config
    config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    model = tf.LlamaForCausalLM(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)
    with pytest.raises(NotRecognised, match="something else"):
        recognise(model, find_sites(model).site("layers.0.attn"))


def test_reasons_and_training_mode():
    model = BY_NAME["mixtral"].model().train()
    anatomy = find_sites(model)
    with pytest.raises(NotRecognised, match="0 matrices"):
        recognise(model, anatomy.site("layers.0.ffn"))
    with pytest.raises(NotRecognised, match="neither"):
        recognise(model, anatomy.site("layers.0"))
    assert as_ffn(model, anatomy.site("layers.0.attn")) is None
    assert model.training
    assert all(not m._forward_pre_hooks for m in model.modules())


def test_a_window_shows_on_a_probe_long_enough():
    """Mistral with a window of 20: a probe of 8 tokens would not notice it."""
    config = BY_NAME["mistral"].model().config
    config.sliding_window = 20
    model = tf.MistralForCausalLM(config).eval()
    site = find_sites(model).site("layers.0.attn")
    assert as_attention(model, site).operator.spec()["window"] == 20
    assert observe(model, site).output.shape[1] > 20


def _gemma2(attention, **changes):
    torch.manual_seed(0)
    config = EVERY["gemma2"].settings | changes
    return tf.Gemma2ForCausalLM(tf.Gemma2Config(**config, attn_implementation=attention)).eval()


@pytest.mark.parametrize("cap", [20.0, 50.0, 200.0])
def test_soft_capping_is_not_taken_for_softmax(cap):
    """At the usual start scores are far too small for a cap of 50 to show."""
    model = _gemma2("eager", attn_logit_softcapping=cap)
    for site in find_sites(model).of_kind("mixer"):
        with pytest.raises(NotRecognised, match="soft-capping"):
            recognise(model, site)


def test_the_same_model_without_capping_is_softmax():
    """What is computed counts, not the name of the class: its window of 6 tokens included."""
    model = _gemma2("eager", attn_logit_softcapping=None)
    found = [as_attention(model, site) for site in find_sites(model).of_kind("mixer")]
    assert [f.operator.spec()["window"] for f in found] == [6, None]


def test_chunks_and_hidden_windows_are_not_taken_for_full_attention():
    """A window that neither the module nor the config speaks of shows on the probe."""
    model = BY_NAME["llama"].model()
    attention = model.model.layers[0].self_attn
    whole = attention.forward

    def windowed(hidden_states, **rest):
        tokens = hidden_states.shape[1]
        near = torch.ones(tokens, tokens).tril().triu(-30).bool()
        return whole(hidden_states, **{**rest, "attention_mask": near[None, None]})

    attention.forward = windowed
    anatomy = find_sites(model)
    assert as_attention(model, anatomy.site("layers.0.attn")) is None
    assert as_attention(model, anatomy.site("layers.1.attn")) is not None
    chunked = EVERY["llama4"].model()
    for site in find_sites(chunked).of_kind("mixer"):
        assert as_attention(chunked, site) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_every_dtype_is_recognised(name, dtype):
    family = BY_NAME[name]
    model = family.model().to(dtype)
    anatomy = find_sites(model)
    found = {s.name: as_ffn(model, s) or as_attention(model, s) for s in anatomy.sites if s.kind in ("ffn", "mixer")}
    assert all(found.values())
    assert all(p.dtype == dtype for f in found.values() for p in f.operator.parameters())
    with torch.no_grad():
        before = model(**family.inputs()).logits
        with swap(model, {n: f.operator for n, f in found.items()}, anatomy):
            after = model(**family.inputs()).logits
    assert after.dtype == before.dtype
    if (mask := family.inputs().get("attention_mask")) is not None:
        before, after = before[mask.bool()], after[mask.bool()]
    wrong = float((after - before).double().norm() / before.double().norm())
    assert wrong < {torch.bfloat16: 0.1, torch.float16: 0.02, torch.float64: 1e-5}[dtype]
