"""Softmax attention against a float64 loop over single tokens, its limit cases, and transformers' own attention."""

import math

import pytest
import torch
from transformers import (
    BertConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MistralModel,
    Qwen3Config,
)
from transformers.models.bert.modeling_bert import BertAttention
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXAttention, GPTNeoXRotaryEmbedding
from transformers.models.gptj.modeling_gptj import GPTJAttention
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding

from layersmith.mixer.softmax import SoftmaxAttention


def attention_by_loops(m: SoftmaxAttention, x: torch.Tensor) -> torch.Tensor:
    """The equation, one head and one query at a time, for one sequence x (T, D) without RoPE or query-key norm."""
    heads = m.q.out_features // m.head_dim
    group = heads // (m.k.out_features // m.head_dim)
    scale = m.scale if m.scale is not None else 1 / math.sqrt(m.head_dim)
    q, k, v = m.q(x), m.k(x), m.v(x)
    out = torch.zeros_like(q)
    for h in range(heads):
        own = slice(h * m.head_dim, (h + 1) * m.head_dim)
        shared = slice(h // group * m.head_dim, (h // group + 1) * m.head_dim)
        for t in range(len(x)):
            seen = [s for s in range(t + 1 if m.causal else len(x)) if m.window is None or abs(t - s) < m.window]
            own_scale = scale * math.log(len(seen)) if m.log_length else scale
            weights = [math.exp(own_scale * float(q[t, own] @ k[s, shared])) for s in seen]
            for weight, s in zip(weights, seen, strict=True):
                out[t, own] += weight / sum(weights) * v[s, shared]
    return m.o(out)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"n_kv_heads": 2},
        {"n_kv_heads": 1, "head_dim": 6, "bias": True, "out_bias": True},
        {"window": 3},
        {"causal": False, "scale": 0.3},
        {"causal": False, "window": 3, "n_kv_heads": 2},
        {"log_length": True},
        {"log_length": True, "window": 3, "scale": 2.0},
        {"log_length": True, "causal": False, "n_kv_heads": 2},
    ],
)
@pytest.mark.oracle("softmax_attention")
def test_equals_loops(config):
    torch.manual_seed(0)
    m = SoftmaxAttention(16, 4, **config).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    with torch.no_grad():
        y, _ = m(x)
        want = torch.stack([attention_by_loops(m, row) for row in x])
    torch.testing.assert_close(y, want, atol=1e-12, rtol=0)


@pytest.mark.oracle("softmax_attention")
def test_window_as_long_as_the_text_is_full_attention():
    torch.manual_seed(0)
    full = SoftmaxAttention(16, 2, rope_theta=100.0)
    windowed = SoftmaxAttention(16, 2, rope_theta=100.0, window=7)
    windowed.load_state_dict(full.state_dict())
    x = torch.randn(2, 7, 16)
    torch.testing.assert_close(windowed(x)[0], full(x)[0])
    longer = torch.randn(2, 8, 16)
    assert (windowed(longer)[0] - full(longer)[0]).abs().max() > 1e-4


def test_one_key_value_head_per_query_head_is_mha():
    torch.manual_seed(0)
    m = SoftmaxAttention(16, 4, n_kv_heads=4)
    theirs = torch.nn.MultiheadAttention(16, 4, bias=False, batch_first=True)
    theirs.in_proj_weight.data = torch.cat([m.q.weight.data, m.k.weight.data, m.v.weight.data])
    theirs.out_proj.weight.data = m.o.weight.data
    x = torch.randn(2, 6, 16)
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    torch.testing.assert_close(m(x)[0], theirs(x, x, x, attn_mask=future)[0], atol=1e-6, rtol=0)


def test_grouped_heads_equal_repeated_heads():
    torch.manual_seed(0)
    grouped = SoftmaxAttention(16, 4, n_kv_heads=2, rope_theta=100.0)
    weights = grouped.state_dict()
    for name in ("k.weight", "v.weight"):
        weights[name] = weights[name].view(2, 1, 4, 16).expand(2, 2, 4, 16).reshape(16, 16)
    mha = SoftmaxAttention(16, 4, rope_theta=100.0)
    mha.load_state_dict(weights)
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(grouped(x)[0], mha(x)[0], atol=1e-6, rtol=0)


def test_window_state_holds_only_what_later_tokens_can_see():
    m = SoftmaxAttention(16, 2, window=4)
    _, state = m(torch.randn(1, 50, 16))
    assert state["k"].shape[2] == 3
    # Padding does not push a real token out of the window.
    mask = torch.tensor([[True] * 3 + [False] * 9])
    _, state = m(torch.randn(1, 12, 16), mask=mask)
    assert state["real"].tolist() == [[True] * 3]


@torch.no_grad()
@pytest.mark.parametrize("causal", [True, False])
def test_padding_that_sees_nothing_else_sees_itself(causal):
    """An empty row of the softmax is undefined in some kernels, and NaN in a pad would spread through its key."""
    torch.manual_seed(0)
    m = SoftmaxAttention(16, 2, causal=causal)
    x = torch.randn(1, 3, 16)
    y, _ = m(x, mask=torch.tensor([[False, False, True]]) & causal)
    torch.testing.assert_close(y[:, :2], m.o(m.v(x[:, :2])), atol=1e-6, rtol=0)


def test_cost_counts_the_full_square():
    m = SoftmaxAttention(16, 4, n_kv_heads=2)
    cost = m.cost(batch=3, tokens=10)
    projections = 2 * 3 * 10 * 16 * (16 + 8 + 8 + 16)
    scores_and_values = 2 * 2 * 3 * 4 * 10 * 10 * 4
    assert cost.flops == projections + scores_and_values
    assert cost.state_bytes == 3 * 2 * (2 * 10 * 4) * 4


# ---- official: transformers' attention modules, same weights ----


def copy_qkvo(m, theirs, out="o_proj"):
    for ours, name in ((m.q, "q_proj"), (m.k, "k_proj"), (m.v, "v_proj"), (m.o, out)):
        ours.load_state_dict(getattr(theirs, name).state_dict())


def split_fused(fused_weight, fused_bias, m):
    """A fused [q; k; v] weight (3 D, D) into our three maps."""
    for part, weight, bias in zip((m.q, m.k, m.v), fused_weight.chunk(3), fused_bias.chunk(3), strict=True):
        part.weight.data, part.bias.data = weight.clone(), bias.clone()


def future_mask(tokens, window=None):
    back = torch.arange(tokens)[:, None] - torch.arange(tokens)
    seen = (back >= 0) if window is None else (back >= 0) & (back < window)
    return torch.zeros(1, 1, tokens, tokens).masked_fill(~seen, torch.finfo(torch.float32).min)


def assert_equal(m, x, want):
    with torch.no_grad():
        torch.testing.assert_close(m(x)[0], want, atol=1e-5, rtol=0)


SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager"}


@pytest.mark.official("softmax_attention")
@torch.no_grad()
def test_equals_llama():
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    theirs = LlamaAttention(config, 0).eval()
    m = SoftmaxAttention(32, 4, n_kv_heads=2, rope_theta=500.0)
    copy_qkvo(m, theirs)
    x = torch.randn(2, 11, 32)
    rope = LlamaRotaryEmbedding(config)(x, torch.arange(11)[None])
    assert_equal(m, x, theirs(x, rope, attention_mask=future_mask(11))[0])


@pytest.mark.official("softmax_attention")
@torch.no_grad()
def test_equals_qwen3_with_query_key_norm():
    torch.manual_seed(0)
    rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    config = Qwen3Config(**SIZES, head_dim=16, rms_norm_eps=1e-5, rope_parameters=rope_parameters)
    theirs = Qwen3Attention(config, 0).eval()
    torch.nn.init.normal_(theirs.q_norm.weight)
    torch.nn.init.normal_(theirs.k_norm.weight)
    m = SoftmaxAttention(32, 4, n_kv_heads=2, head_dim=16, rope_theta=1e6, qk_norm=True, qk_norm_eps=1e-5)
    copy_qkvo(m, theirs)
    m.q_norm.load_state_dict(theirs.q_norm.state_dict())
    m.k_norm.load_state_dict(theirs.k_norm.state_dict())
    x = torch.randn(2, 11, 32)
    rope = Qwen3RotaryEmbedding(config)(x, torch.arange(11)[None])
    assert_equal(m, x, theirs(x, rope, attention_mask=future_mask(11))[0])


@pytest.mark.official("softmax_attention")
@torch.no_grad()
def test_equals_mistral_with_window():
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, sliding_window=4, num_hidden_layers=1, intermediate_size=8, vocab_size=10)
    model = MistralModel(config).eval()
    layer = model.layers[0]
    m = SoftmaxAttention(32, 4, n_kv_heads=2, rope_theta=config.rope_parameters["rope_theta"], window=4)
    copy_qkvo(m, layer.self_attn)
    seen = {}
    layer.self_attn.register_forward_hook(
        lambda _m, _a, kw, out: seen.update(x=kw["hidden_states"], y=out[0]), with_kwargs=True
    )
    model(inputs_embeds=torch.randn(2, 11, 32))
    assert_equal(m, seen["x"], seen["y"])


@pytest.mark.official("softmax_attention")
@torch.no_grad()
def test_equals_gpt_neox_with_partial_rope():
    torch.manual_seed(0)
    rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    config = GPTNeoXConfig(
        hidden_size=32, num_attention_heads=2, rope_parameters=rope_parameters, attn_implementation="eager"
    )
    theirs = GPTNeoXAttention(config, 0).eval()
    m = SoftmaxAttention(32, 2, rope_theta=1e4, rope_fraction=0.25, bias=True, out_bias=True)
    by_head = theirs.query_key_value.weight.view(2, 3, 16, 32).transpose(0, 1).reshape(96, 32)
    bias = theirs.query_key_value.bias.view(2, 3, 16).transpose(0, 1).reshape(96)
    split_fused(by_head, bias, m)
    m.o.load_state_dict(theirs.dense.state_dict())
    x = torch.randn(2, 11, 32)
    rope = GPTNeoXRotaryEmbedding(config)(x, torch.arange(11)[None])
    want = theirs(x, attention_mask=future_mask(11), position_embeddings=rope)[0]
    assert_equal(m, x, want)


@pytest.mark.official("softmax_attention")
@torch.no_grad()
def test_equals_gptj_with_interleaved_rope():
    torch.manual_seed(0)
    config = GPTJConfig(n_embd=32, n_head=2, n_positions=32, rotary_dim=8, attn_implementation="eager")
    theirs = GPTJAttention(config, 0).eval()
    m = SoftmaxAttention(32, 2, rope_theta=1e4, rope_fraction=0.5, rope_interleaved=True)
    copy_qkvo(m, theirs, out="out_proj")
    x = torch.randn(2, 11, 32)
    want = theirs(x, attention_mask=future_mask(11), position_ids=torch.arange(11)[None].expand(2, -1))[0]
    assert_equal(m, x, want)


@pytest.mark.official("softmax_attention")
@torch.no_grad()
def test_equals_gpt2():
    torch.manual_seed(0)
    theirs = GPT2Attention(GPT2Config(n_embd=32, n_head=4, attn_implementation="eager"), layer_idx=0).eval()
    m = SoftmaxAttention(32, 4, bias=True, out_bias=True)
    split_fused(theirs.c_attn.weight.T, torch.nn.init.normal_(theirs.c_attn.bias), m)
    m.o.weight.data, m.o.bias.data = theirs.c_proj.weight.T.clone(), theirs.c_proj.bias.clone()
    x = torch.randn(2, 11, 32)
    assert_equal(m, x, theirs(x, attention_mask=future_mask(11))[0])


@pytest.mark.official("softmax_attention")
@torch.no_grad()
def test_equals_bert():
    torch.manual_seed(0)
    theirs = BertAttention(BertConfig(hidden_size=32, num_attention_heads=4, attn_implementation="eager")).eval()
    m = SoftmaxAttention(32, 4, causal=False, bias=True, out_bias=True)
    inner = theirs.self
    for ours, part in ((m.q, inner.query), (m.k, inner.key), (m.v, inner.value), (m.o, theirs.output.dense)):
        ours.load_state_dict(part.state_dict())
    x = torch.randn(2, 11, 32)
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, 7:] = False
    bias = torch.zeros(2, 1, 1, 11).masked_fill(~mask[:, None, None, :], torch.finfo(torch.float32).min)
    want = theirs.output.dense(inner(x, attention_mask=bias)[0])
    torch.testing.assert_close(m(x, mask=mask)[0][mask], want[mask], atol=1e-5, rtol=0)


# ---- refusals ----


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"d_model": 16, "n_heads": 3}, "multiple of n_heads"),
        ({"d_model": 16, "n_heads": 4, "n_kv_heads": 3}, "multiple of n_kv_heads"),
        ({"d_model": 16, "n_heads": 0}, "n_heads must be a positive integer"),
        ({"d_model": 16, "n_heads": 4, "head_dim": -4}, "head_dim must be a positive integer"),
        ({"d_model": 16, "n_heads": 4, "window": 0}, "window must be a positive integer"),
        ({"d_model": 16, "n_heads": 4, "rope_fraction": 0.5}, "rope_theta"),
    ],
)
def test_bad_configs_are_refused(config, says):
    with pytest.raises(ValueError, match=says):
        SoftmaxAttention(**config)
