"""Decoders whose mixers are convolutions or recurrences, alone or beside attention."""

from __future__ import annotations

from tests.architectures.builders import GROUPED, SPECIAL, WORDS, causal, table

_SMALL = SPECIAL | {"vocab_size": WORDS, "hidden_size": 32, "num_hidden_layers": 2}

RECURRENT = table(
    causal("mamba", "Mamba", _SMALL | {"state_size": 8}),
    causal(
        "mamba2",
        "Mamba2",
        _SMALL | {"state_size": 8, "num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    ),
    causal("rwkv", "Rwkv", _SMALL | {"attention_hidden_size": 32}),
    causal(
        "recurrent_gemma",
        "RecurrentGemma",
        GROUPED | {"num_hidden_layers": 3, "attention_window_size": 6, "lru_width": 32},
    ),
    causal(
        "lfm2",
        "Lfm2",
        GROUPED | {"layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
    ),
    causal(
        "nemotron_h",
        "NemotronH",
        GROUPED
        | {
            "num_hidden_layers": 4,
            "hybrid_override_pattern": "M-*-",
            "mamba_num_heads": 8,
            "mamba_head_dim": 8,
            "n_groups": 1,
            "ssm_state_size": 8,
            "chunk_size": 16,
            "head_dim": 8,
        },
    ),
)
