"""Pattern attention beside transformers' own windows."""

import pytest
import torch
from transformers import LongformerConfig, LongformerModel, MistralConfig, MistralModel

from layersmith.mixer.pattern_attention import PatternAttention


def seen_by(layer):
    """What enters and leaves a module when the model runs next."""
    seen = {}
    layer.register_forward_hook(
        lambda _m, args, given, out: seen.update(x=given.get("hidden_states", args[0] if args else None), y=out[0]),
        with_kwargs=True,
    )
    return seen


SIZES = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, "intermediate_size": 8, "vocab_size": 10}


@torch.no_grad()
@pytest.mark.official("pattern_attention")
def test_equals_mistrals_sliding_window():
    torch.manual_seed(0)
    config = MistralConfig(**SIZES, num_key_value_heads=2, sliding_window=4, attn_implementation="eager")
    model = MistralModel(config).eval()
    m = PatternAttention(32, 4, n_kv_heads=2, rope_theta=config.rope_parameters["rope_theta"], size=4)
    for ours, name in ((m.q, "q_proj"), (m.k, "k_proj"), (m.v, "v_proj"), (m.o, "o_proj")):
        ours.load_state_dict(getattr(model.layers[0].self_attn, name).state_dict())
    seen = seen_by(model.layers[0].self_attn)
    model(inputs_embeds=torch.randn(2, 19, 32))
    torch.testing.assert_close(m(seen["x"])[0], seen["y"], atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.official("pattern_attention")
def test_equals_longformers_window():
    """Without global tokens, for which it has maps of their own. A window of 6 there is 3 to either side."""
    torch.manual_seed(0)
    config = LongformerConfig(**SIZES, attention_window=[6], max_position_embeddings=40, pad_token_id=1)
    model = LongformerModel(config).eval()
    theirs = model.encoder.layer[0].attention.self
    m = PatternAttention(32, 4, causal=False, size=4, bias=True)
    for ours, name in ((m.q, "query"), (m.k, "key"), (m.v, "value")):
        ours.load_state_dict(getattr(theirs, name).state_dict())
    m.o.weight.copy_(torch.eye(32))
    seen = seen_by(theirs)
    model(inputs_embeds=torch.randn(2, 24, 32))
    torch.testing.assert_close(m(seen["x"])[0], seen["y"], atol=1e-5, rtol=0)
