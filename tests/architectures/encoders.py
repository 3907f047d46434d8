"""Text encoders, and encoder-decoders."""

from __future__ import annotations

from typing import Any

from tests.architectures.builders import SPECIAL, TEXT, WORDS, Architecture, table

_PAIR: dict[str, Any] = SPECIAL | {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}

ENCODERS = table(
    Architecture("bert", "BertForMaskedLM", "BertConfig", TEXT),
    Architecture("bert_tokens", "BertForTokenClassification", "BertConfig", TEXT | {"num_labels": 5}),
    Architecture("roberta", "RobertaForMaskedLM", "RobertaConfig", TEXT | {"pad_token_id": 1, "bos_token_id": 0}),
    Architecture(
        "modernbert",
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        TEXT | {"local_attention": 6, "cls_token_id": 1, "sep_token_id": 2},
    ),
    Architecture(
        "deberta_v2",
        "DebertaV2ForMaskedLM",
        "DebertaV2Config",
        TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    ),
    Architecture("albert", "AlbertForMaskedLM", "AlbertConfig", TEXT | {"embedding_size": 16}),
    Architecture("electra", "ElectraForMaskedLM", "ElectraConfig", TEXT | {"embedding_size": 16}),
    Architecture(
        "t5",
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "vocab_size": WORDS,
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 48,
            "num_layers": 2,
            "num_heads": 4,
            "decoder_start_token_id": 0,
        },
    ),
    Architecture(
        "bart",
        "BartForConditionalGeneration",
        "BartConfig",
        _PAIR | {"max_position_embeddings": 64, "decoder_start_token_id": 2},
    ),
    Architecture(
        "marian",
        "MarianMTModel",
        "MarianConfig",
        _PAIR | {"max_position_embeddings": 64, "decoder_start_token_id": 0},
    ),
    Architecture(
        "whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        _PAIR
        | {
            "max_source_positions": 24,
            "max_target_positions": 32,
            "num_mel_bins": 8,
            "decoder_start_token_id": 3,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
    ),
)
