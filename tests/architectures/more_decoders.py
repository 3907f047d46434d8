"""More decoders, one small model each: relatives of those in `decoders`, for the sweep of every architecture."""

from __future__ import annotations

from tests.architectures.builders import GROUPED, SPECIAL, TEXT, WIDE, WORDS, Architecture, causal, table

_GPT2_LIKE = SPECIAL | {"vocab_size": WORDS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
_GPT2_LIKE |= {"bos_token_id": 1, "eos_token_id": 2}

MORE_DECODERS = table(
    causal("apertus", "Apertus", GROUPED),
    causal("arcee", "Arcee", GROUPED),
    causal("biogpt", "BioGpt", TEXT),
    causal("bitnet", "BitNet", GROUPED),
    causal("codegen", "CodeGen", _GPT2_LIKE | {"rotary_dim": 4, "n_ctx": 64}),
    causal("cohere", "Cohere", GROUPED),
    causal("cohere2", "Cohere2", GROUPED | {"sliding_window": 6}),
    Architecture(
        "ctrl",
        "CTRLLMHeadModel",
        "CTRLConfig",
        SPECIAL | {"vocab_size": WORDS, "n_embd": 32, "dff": 48, "n_layer": 2, "n_head": 4, "n_positions": 64},
    ),
    causal("diffllama", "DiffLlama", GROUPED),
    causal("doge", "Doge", GROUPED),
    causal("ernie4_5", "Ernie4_5", WIDE),
    causal("exaone4", "Exaone4", WIDE | {"sliding_window": 6}),
    causal("gemma", "Gemma", WIDE),
    causal("glm", "Glm", WIDE),
    causal("glm4", "Glm4", WIDE),
    causal("gpt_bigcode", "GPTBigCode", _GPT2_LIKE),
    causal(
        "gpt_neo",
        "GPTNeo",
        SPECIAL
        | {"vocab_size": WORDS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64}
        | {"attention_types": [[["global", "local"], 1]], "window_size": 6},
    ),
    causal("gpt_neox", "GPTNeoX", TEXT),
    causal("gpt_neox_japanese", "GPTNeoXJapanese", TEXT | {"intermediate_multiple_size": 2}),
    causal("granite", "Granite", GROUPED),
    causal("helium", "Helium", GROUPED | {"head_dim": 8}),
    causal("hunyuan_v1_dense", "HunYuanDenseV1", WIDE),
    causal(
        "minicpm3",
        "MiniCPM3",
        TEXT | {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
    ),
    causal("ministral", "Ministral", WIDE | {"sliding_window": 6}),
    causal("nemotron", "Nemotron", WIDE),
    causal("olmo", "Olmo", GROUPED),
    causal("olmo2", "Olmo2", GROUPED),
    causal("olmo3", "Olmo3", GROUPED | {"sliding_window": 6}),
    causal("persimmon", "Persimmon", TEXT),
    causal("phi", "Phi", GROUPED),
    causal("qwen2", "Qwen2", GROUPED),
    causal("seed_oss", "SeedOss", WIDE),
    causal("smollm3", "SmolLM3", GROUPED),
    causal("stablelm", "StableLm", GROUPED),
    causal("starcoder2", "Starcoder2", GROUPED),
    causal("vaultgemma", "VaultGemma", WIDE | {"query_pre_attn_scalar": 16, "sliding_window": 6}),
    causal(
        "xglm",
        "XGLM",
        SPECIAL
        | {
            "vocab_size": WORDS,
            "d_model": 32,
            "ffn_dim": 48,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 64,
        },
    ),
    Architecture(
        "xlnet",
        "XLNetLMHeadModel",
        "XLNetConfig",
        SPECIAL | {"vocab_size": WORDS, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48},
    ),
    Architecture("qwen2_classifier", "Qwen2ForSequenceClassification", "Qwen2Config", GROUPED),
    # Mixtures of experts and hybrids.
    causal(
        "dbrx",
        "Dbrx",
        {
            "vocab_size": WORDS,
            "d_model": 32,
            "n_heads": 4,
            "n_layers": 2,
            "max_seq_len": 64,
            "attn_config": {"clip_qkv": 8.0, "kv_n_heads": 2, "rope_theta": 10000.0},
            "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
        },
    ),
    causal(
        "deepseek_v3",
        "DeepseekV3",
        TEXT
        | {
            "kv_lora_rank": 16,
            "q_lora_rank": 16,
            "qk_nope_head_dim": 16,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    causal(
        "dots1",
        "Dots1",
        WIDE
        | {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    causal(
        "ernie4_5_moe",
        "Ernie4_5_Moe",
        WIDE
        | {
            "moe_num_experts": 4,
            "moe_k": 2,
            "moe_intermediate_size": 16,
            "moe_num_shared_experts": 1,
            "moe_layer_start_index": 1,
        },
    ),
    causal("flex_olmo", "FlexOlmo", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    causal(
        "glm4_moe",
        "Glm4Moe",
        WIDE
        | {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "n_group": 1,
            "topk_group": 1,
            "moe_intermediate_size": 16,
            "first_k_dense_replace": 1,
        },
    ),
    causal(
        "jetmoe",
        "JetMoe",
        SPECIAL
        | {
            "vocab_size": WORDS,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "kv_channels": 8,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
    ),
    causal(
        "minimax",
        "MiniMax",
        WIDE
        | {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "block_size": 16,
            "layer_types": ["linear_attention", "full_attention"],
        },
    ),
    causal("olmoe", "Olmoe", GROUPED | {"num_experts": 4, "num_experts_per_tok": 2}),
    causal("phimoe", "Phimoe", GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    causal(
        "qwen2_moe",
        "Qwen2Moe",
        GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
        },
    ),
    causal(
        "falcon_mamba", "FalconMamba", {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    ),
    causal(
        "falcon_h1",
        "FalconH1",
        GROUPED
        | {
            "head_dim": 16,
            "mamba_d_ssm": 32,
            "mamba_n_heads": 4,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
        },
    ),
    causal(
        "jamba",
        "Jamba",
        GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "attn_layer_period": 2,
            "attn_layer_offset": 1,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "use_mamba_kernels": False,
            "mamba_d_state": 8,
            "mamba_dt_rank": 4,
        },
    ),
    causal(
        "bamba",
        "Bamba",
        GROUPED
        | {
            "attn_layer_indices": [1],
            "mamba_n_heads": 4,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_chunk_size": 16,
        },
    ),
)
