"""Decoders with attention and dense feed-forwards."""

from __future__ import annotations

from tests.architectures.builders import GROUPED, SPECIAL, TEXT, WIDE, WORDS, Architecture, causal, table

_GEMMA = WIDE | {"query_pre_attn_scalar": 16, "sliding_window": 6}

DECODERS = table(
    causal("llama", "Llama", GROUPED),
    causal("mistral_window", "Mistral", GROUPED | {"sliding_window": 6}),
    causal("qwen3", "Qwen3", WIDE),
    causal("gemma2", "Gemma2", _GEMMA, attention="eager"),
    Architecture("gemma3", "Gemma3ForCausalLM", "Gemma3TextConfig", _GEMMA),
    causal("phi3", "Phi3", GROUPED),
    causal("bloom", "Bloom", SPECIAL | {"vocab_size": WORDS, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
    causal("falcon", "Falcon", TEXT | {"new_decoder_architecture": False, "alibi": False}),
    causal(
        "mpt",
        "Mpt",
        SPECIAL | {"vocab_size": WORDS, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    ),
    causal(
        "opt",
        "OPT",
        SPECIAL
        | {
            "vocab_size": WORDS,
            "hidden_size": 32,
            "word_embed_proj_dim": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    Architecture(
        "gpt2",
        "GPT2LMHeadModel",
        "GPT2Config",
        SPECIAL | {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    causal(
        "gptj",
        "GPTJ",
        SPECIAL | {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4},
    ),
    Architecture(
        "openai_gpt",
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTConfig",
        {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    Architecture(
        "llama_classifier_without_padding",
        "LlamaForSequenceClassification",
        "LlamaConfig",
        GROUPED | {"pad_token_id": None},
    ),
    causal("llama_tuples", "Llama", GROUPED | {"return_dict": False}),
)
