"""Decoders whose feed-forwards are mixtures of experts."""

from __future__ import annotations

from tests.architectures.builders import EXPERTS, GROUPED, TEXT, WIDE, Architecture, causal, table

_QWEN = WIDE | {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

MIXTURES = table(
    causal("mixtral", "Mixtral", GROUPED | EXPERTS),
    causal("granite_moe", "GraniteMoe", GROUPED | EXPERTS),
    causal(
        "granite_hybrid",
        "GraniteMoeHybrid",
        GROUPED
        | EXPERTS
        | {
            "shared_intermediate_size": 32,
            "position_embedding_type": "rope",
            "layer_types": ["mamba", "attention"],
            "mamba_n_heads": 8,
            "mamba_d_head": 8,
            "mamba_n_groups": 1,
            "mamba_d_state": 8,
            "mamba_expand": 2,
            "mamba_chunk_size": 16,
        },
    ),
    causal("qwen3_moe", "Qwen3Moe", _QWEN),
    causal(
        "qwen3_next",
        "Qwen3Next",
        _QWEN
        | {
            "layer_types": ["linear_attention", "full_attention"],
            "shared_expert_intermediate_size": 32,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        },
    ),
    causal("gpt_oss", "GptOss", WIDE | EXPERTS | {"sliding_window": 6}),
    causal(
        "deepseek_v2",
        "DeepseekV2",
        TEXT
        | {
            "kv_lora_rank": 8,
            "q_lora_rank": 8,
            "qk_nope_head_dim": 8,
            "qk_rope_head_dim": 4,
            "v_head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "topk_method": "greedy",
        },
    ),
    Architecture(
        "llama4",
        "Llama4ForCausalLM",
        "Llama4TextConfig",
        WIDE
        | {
            "intermediate_size_mlp": 48,
            "num_local_experts": 2,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 16,
        },
    ),
)
