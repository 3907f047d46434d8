"""Adapters: replaced attention and dropped blocks inside real models, with caches, padding and beams."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from layersmith.anatomy.calls import convention, real_tokens, wrap
from layersmith.anatomy.edit import Edit, apply, restore
from layersmith.contract import Mixer
from layersmith.errors import UserError
from layersmith.ffn.affine import Affine
from layersmith.ffn.zero import Zero
from layersmith.mixer.softmax import SoftmaxAttention

D = 32


class RunningMean(Mixer):
    """A recurrent mixer small enough to see through: the mean of a linear map of the real tokens so far."""

    def __init__(self, d_model: int):
        super().__init__()
        self.v = nn.Linear(d_model, d_model)

    def forward(self, x, state=None, mask=None):
        v = self.v(x)
        real = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        total, count = (v * real).cumsum(1), real.cumsum(1)
        if state is not None:
            total, count = total + state["total"][:, None], count + state["count"][:, None]
        return total / count.clamp(min=1), {"total": total[:, -1], "count": count[:, -1]}


@pytest.fixture
def llama():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=D,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=0.5,
    )
    return LlamaForCausalLM(config).eval()


def put(model, path, operator, style, layer_idx, outputs):
    """Replace the module at a path, with the convention of what stands there."""
    call = convention(model.get_submodule(path), style, layer_idx, outputs)
    return apply(model, [(Edit(path, operator.spec(), call), operator.eval())])


def same_attention(attention, causal=True):
    operator = SoftmaxAttention(D, 4, 2, causal=causal, rope_theta=10000.0)
    for ours, theirs in zip("qkvo", ("q_proj", "k_proj", "v_proj", "o_proj"), strict=True):
        getattr(operator, ours).load_state_dict(getattr(attention, theirs).state_dict())
    return operator


def new_tokens(model, inputs, **options):
    return model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False, pad_token_id=0, **options)


@pytest.fixture
def padded():
    """Three prompts of 3, 6 and 5 tokens, padded on the left."""
    ids = torch.randint(3, 61, (3, 6), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, :3] = mask[2, :1] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"num_beams": 3}])
def test_the_same_attention_put_back_changes_nothing(llama, padded, implementation, options):
    llama.set_attn_implementation(implementation)
    with torch.no_grad():
        logits = llama(**padded).logits
    generated = new_tokens(llama, padded, **options)
    for i in range(3):
        attention = llama.model.layers[i].self_attn
        put(llama, f"model.layers.{i}.self_attn", same_attention(attention), "attention", i, 2)
    with torch.no_grad():
        again = llama(**padded).logits
    real = padded["attention_mask"].bool()
    torch.testing.assert_close(again[real], logits[real], rtol=1e-5, atol=1e-5)
    assert torch.equal(new_tokens(llama, padded, **options), generated)


@pytest.mark.parametrize("operator", [Zero, Affine, RunningMean])
@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1, 2)])
def test_a_replaced_attention_generates_with_a_cache_as_without(llama, padded, operator, layers):
    for i in layers:
        put(llama, f"model.layers.{i}.self_attn", operator(d_model=D), "attention", i, 2)
    assert torch.equal(new_tokens(llama, padded), new_tokens(llama, padded, use_cache=False))


@pytest.mark.parametrize("operator", [Zero, Affine, RunningMean])
@pytest.mark.parametrize("layers", [(0,), (2,), (0, 1)])
def test_a_replaced_block_generates_with_a_cache_as_without(llama, padded, operator, layers):
    for i in layers:
        put(llama, f"model.layers.{i}", operator(d_model=D), "block", i, 0)
    assert torch.equal(new_tokens(llama, padded), new_tokens(llama, padded, use_cache=False))
    assert torch.equal(new_tokens(llama, padded, num_beams=3), new_tokens(llama, padded, num_beams=3, use_cache=False))


def test_a_dropped_block_is_the_model_without_it(llama, padded):
    before = put(llama, "model.layers.0", Zero(d_model=D), "block", 0, 0)
    with torch.no_grad():
        dropped = llama(**padded).logits
    restore(llama, before)
    del llama.model.layers[0]
    for i, layer in enumerate(llama.model.layers):
        layer.self_attn.layer_idx = i
    llama.config.num_hidden_layers = 2
    with torch.no_grad():
        assert torch.equal(dropped, llama(**padded).logits)


def test_padding_never_reaches_a_recurrent_state(llama, padded):
    """Each prompt alone, without padding, ends in the same tokens as in the padded batch."""
    for i in range(3):
        put(llama, f"model.layers.{i}.self_attn", RunningMean(D), "attention", i, 2)
    together = new_tokens(llama, padded)[:, -8:]
    for row, ids, mask in zip(together, padded["input_ids"], padded["attention_mask"], strict=True):
        alone = new_tokens(llama, {"input_ids": ids[mask.bool()][None]})
        assert torch.equal(alone[0, -8:], row)


def test_chunked_prefill_equals_one_pass(llama, padded):
    put(llama, "model.layers.0.self_attn", RunningMean(D), "attention", 0, 2)
    put(llama, "model.layers.2", Zero(d_model=D), "block", 2, 0)
    ids, mask = padded["input_ids"], padded["attention_mask"]
    cache = DynamicCache(config=llama.config)
    with torch.no_grad():
        whole = llama(input_ids=ids, attention_mask=mask).logits[:, -2:]
        llama(input_ids=ids[:, :4], attention_mask=mask[:, :4], past_key_values=cache)
        rest = llama(input_ids=ids[:, 4:], attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(rest, whole, rtol=1e-5, atol=1e-5)
    assert cache.get_seq_length() == 6


@pytest.mark.parametrize("style", ["attention", "block"])
def test_gpt2_and_neox(style, padded):
    """GPT-2 passes its cache before its mask, by position; GPT-NeoX calls its cache `layer_past`."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "bos_token_id": 1, "eos_token_id": 2}
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=D, n_layer=2, n_head=4, n_positions=64, **sizes)).eval()
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(hidden_size=D, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, **sizes)
    ).eval()
    for model, path, attention in ((gpt2, "transformer.h.0", "attn"), (neox, "gpt_neox.layers.0", "attention")):
        where = path if style == "block" else f"{path}.{attention}"
        put(model, where, RunningMean(D), style, 0, 0 if style == "block" else 2)
        assert torch.equal(new_tokens(model, padded), new_tokens(model, padded, use_cache=False))


def test_bert_padding_and_tuple():
    torch.manual_seed(0)
    bert = BertModel(
        BertConfig(vocab_size=61, hidden_size=D, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    ).eval()
    put(bert, "encoder.layer.0.attention.self", RunningMean(D), "attention", 0, 2)
    ids = torch.randint(3, 61, (1, 7), generator=torch.Generator().manual_seed(1))
    right = torch.cat([ids, torch.zeros(1, 3, dtype=torch.long)], 1)
    mask = torch.tensor([[1] * 7 + [0] * 3])
    with torch.no_grad():
        alone, with_padding = bert(ids)[0], bert(right, attention_mask=mask)[0]
    torch.testing.assert_close(with_padding[:, :7], alone, rtol=1e-5, atol=1e-5)


def t5():
    torch.manual_seed(0)
    sizes = {"d_model": D, "d_ff": 48, "d_kv": 8, "num_heads": 4, "num_layers": 2, "vocab_size": 61}
    config = T5Config(**sizes, decoder_start_token_id=0, initializer_factor=5.0)
    return T5ForConditionalGeneration(config).eval()


def test_t5_self_and_cross_attention_and_block():
    model, ids = t5(), {"input_ids": torch.randint(3, 61, (2, 6), generator=torch.Generator().manual_seed(1))}
    put(model, "decoder.block.1.layer.0.SelfAttention", RunningMean(D), "attention", 1, 3)
    put(model, "decoder.block.0.layer.1.EncDecAttention", Affine(D), "attention", 0, 3)
    put(model, "encoder.block.1", Zero(D), "block", 1, 3)
    assert torch.equal(new_tokens(model, ids), new_tokens(model, ids, use_cache=False))


def test_t5_hands_its_position_bias_past_a_replaced_block():
    """Three encoder blocks, the second one dropped: the third must still see the bias of the first."""
    config = t5().config
    config.num_layers = 3
    model = T5ForConditionalGeneration(config).eval()
    ids = torch.randint(3, 61, (2, 6), generator=torch.Generator().manual_seed(1))
    seen = []
    attention = model.encoder.block[2].layer[0].SelfAttention
    attention.register_forward_pre_hook(lambda m, a, k: seen.append(k["position_bias"]), with_kwargs=True)
    with torch.no_grad():
        model.encoder(ids)
        put(model, "encoder.block.1", Zero(D), "block", 1, 3)
        model.encoder(ids)
    assert torch.equal(seen[0], seen[1])


def test_t5_refuses_to_lose_its_position_bias():
    model = t5()
    put(model, "encoder.block.0.layer.0.SelfAttention", Zero(D), "attention", 0, 3)
    with pytest.raises(UserError, match="relative position bias"):
        model.encoder(torch.tensor([[3, 4]]))


def test_whisper_decoder():
    torch.manual_seed(0)
    sizes = {"encoder_layers": 1, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    tokens = {"vocab_size": 61, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    config = WhisperConfig(
        d_model=D, num_mel_bins=8, max_source_positions=10, max_target_positions=32, **sizes, **tokens
    )
    config.suppress_tokens = config.begin_suppress_tokens = None
    model = WhisperForConditionalGeneration(config).eval()
    put(model, "model.decoder.layers.0", Zero(D), "block", 0, 0)
    put(model, "model.decoder.layers.1.self_attn", RunningMean(D), "attention", 1, 2)
    put(model, "model.decoder.layers.1.encoder_attn", Affine(D), "attention", 1, 2)
    features = {"input_features": torch.randn(2, 8, 20)}
    generated = [new_tokens(model, features, use_cache=c) for c in (True, False)]
    assert torch.equal(*generated)


def test_cross_attention_refuses_a_mixer():
    model = t5()
    put(model, "decoder.block.0.layer.1.EncDecAttention", RunningMean(D), "attention", 0, 3)
    with pytest.raises(UserError, match="cross-attention"):
        model(input_ids=torch.tensor([[3, 4]]), decoder_input_ids=torch.tensor([[0]]))


def test_a_list_is_returned_as_a_list_and_a_single_entry_grows_by_the_weights():
    arguments = {"style": "attention", "arguments": ["x", "output_attentions"], "layer_idx": 0}
    for listed in ({}, {"list": True}):
        call = wrap(Zero(D), {**arguments, "outputs": 1, **listed})
        kind = list if listed else tuple
        for asked, length in ((False, 1), (True, 2)):
            returned = call(torch.zeros(1, 2, D), output_attentions=asked)
            assert type(returned) is kind
            assert len(returned) == length


def test_a_bidirectional_mixer_refuses_a_cache(llama):
    attention = llama.model.layers[0].self_attn
    put(llama, "model.layers.0.self_attn", same_attention(attention, causal=False), "attention", 0, 2)
    with pytest.raises(UserError, match="cannot continue from a state"):
        llama(input_ids=torch.tensor([[3, 4]]), use_cache=True)


@pytest.mark.parametrize(
    "call", [{"style": "magic"}, {"outputs": 2}, {"style": "block", "surprise": 1}, {"style": ["block"]}]
)
def test_an_unknown_convention_is_refused(call):
    with pytest.raises(UserError, match="calling convention"):
        wrap(Zero(D), call)


def test_masks_in_every_form():
    """2-D, 3-D, 4-D, bool and additive, with cached keys before and unused columns after the chunk."""
    x, pad = torch.zeros(2, 3, D), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    causal = torch.ones(5, 5).tril().bool()
    four = (causal & pad[:, None, :])[:, None]
    expected = pad[:, 1:4]
    for mask in (pad[:, :4], four[:, :, 1:4, :4], four[:, :, 1:4, :5], four[:, :, 1:4, 1:4]):
        assert torch.equal(real_tokens(mask, x, seen=1), expected)
        additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
        assert torch.equal(real_tokens(additive, x, seen=1), expected)
        assert torch.equal(real_tokens(mask.float() if mask.ndim == 2 else mask[:, 0], x, seen=1), expected)
    assert real_tokens(torch.ones(2, 3), x, seen=0) is None
    assert real_tokens(torch.zeros(2, 3), x, seen=0) is None, "additive, and nothing is hidden"
    assert real_tokens(pad[:, None, None, 1:4], x, seen=0).tolist() == expected.tolist(), "one row for all queries"
    with pytest.raises(UserError, match="sdpa"):
        real_tokens("a block mask", x, seen=0)
