"""More encoders and encoder-decoders of text, one small model each, for the sweep of every architecture."""

from __future__ import annotations

from typing import Any

from tests.architectures.builders import SPECIAL, TEXT, WORDS, Architecture, table

_ROBERTA = TEXT | {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "max_position_embeddings": 66}
_BOTH: dict[str, Any] = SPECIAL | {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_T5 = {
    "vocab_size": WORDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}


def masked(name: str, prefix: str, settings: dict[str, Any]) -> Architecture:
    return Architecture(name, f"{prefix}ForMaskedLM", f"{prefix}Config", settings)


def translating(name: str, prefix: str, settings: dict[str, Any]) -> Architecture:
    return Architecture(name, f"{prefix}ForConditionalGeneration", f"{prefix}Config", settings)


MORE_ENCODERS = table(
    masked("big_bird", "BigBird", TEXT | {"attention_type": "original_full"}),
    masked("camembert", "Camembert", _ROBERTA),
    masked("convbert", "ConvBert", TEXT | {"embedding_size": 32, "conv_kernel_size": 3}),
    masked("data2vec_text", "Data2VecText", _ROBERTA),
    masked("deberta", "Deberta", TEXT),
    masked(
        "distilbert",
        "DistilBert",
        {
            "vocab_size": WORDS,
            "dim": 32,
            "hidden_dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 64,
            "pad_token_id": 0,
        },
    ),
    masked("ernie", "Ernie", TEXT),
    masked("esm", "Esm", TEXT | {"pad_token_id": 1, "mask_token_id": 3, "position_embedding_type": "rotary"}),
    masked("eurobert", "EuroBert", TEXT),
    masked("fnet", "FNet", TEXT),
    masked("ibert", "IBert", _ROBERTA),
    masked("layoutlm", "LayoutLM", TEXT),
    masked("longformer", "Longformer", _ROBERTA | {"attention_window": [4, 4]}),
    masked("luke", "Luke", _ROBERTA | {"entity_vocab_size": 8, "entity_emb_size": 16}),
    masked("megatron_bert", "MegatronBert", TEXT),
    masked(
        "mobilebert",
        "MobileBert",
        TEXT
        | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 2},
    ),
    masked("mpnet", "MPNet", _ROBERTA),
    masked("nomic_bert", "NomicBert", TEXT),
    masked(
        "nystromformer", "Nystromformer", TEXT | {"num_landmarks": 8, "conv_kernel_size": 3, "segment_means_seq_len": 8}
    ),
    masked("rembert", "RemBert", TEXT | {"input_embedding_size": 16, "output_embedding_size": 16}),
    masked("roberta_prelayernorm", "RobertaPreLayerNorm", _ROBERTA),
    masked("roformer", "RoFormer", TEXT | {"embedding_size": 32}),
    masked(
        "squeezebert",
        "SqueezeBert",
        TEXT
        | {
            "embedding_size": 32,
            "q_groups": 2,
            "k_groups": 2,
            "v_groups": 2,
            "intermediate_groups": 2,
            "output_groups": 2,
            "post_attention_groups": 1,
        },
    ),
    masked("xlm_roberta", "XLMRoberta", _ROBERTA),
    masked("xlm_roberta_xl", "XLMRobertaXL", _ROBERTA),
    Architecture("bert_classifier", "BertForSequenceClassification", "BertConfig", TEXT),
    Architecture("bert_questions", "BertForQuestionAnswering", "BertConfig", TEXT),
    Architecture("bert_body", "BertModel", "BertConfig", TEXT),
    translating("blenderbot", "Blenderbot", _BOTH),
    translating("blenderbot_small", "BlenderbotSmall", _BOTH),
    translating("fsmt", "FSMT", _BOTH | {"langs": ["en", "de"], "src_vocab_size": WORDS, "tgt_vocab_size": WORDS}),
    translating(
        "led",
        "LED",
        {k: v for k, v in _BOTH.items() if k != "max_position_embeddings"}
        | {"attention_window": 4, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64},
    ),
    translating("longt5", "LongT5", _T5 | {"local_radius": 3}),
    translating("m2m_100", "M2M100", _BOTH),
    translating("mbart", "MBart", _BOTH),
    translating("mt5", "MT5", _T5),
    translating("mvp", "Mvp", _BOTH),
    translating("pegasus", "Pegasus", _BOTH),
    translating("pegasus_x", "PegasusX", _BOTH | {"block_size": 16, "num_global_tokens": 4}),
    translating("plbart", "PLBart", _BOTH),
    translating(
        "prophetnet",
        "ProphetNet",
        SPECIAL
        | {
            "vocab_size": WORDS,
            "hidden_size": 32,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "num_encoder_attention_heads": 4,
            "num_decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 1,
        },
    ),
    translating(
        "switch_transformers",
        "SwitchTransformers",
        _T5
        | {"num_experts": 4, "num_sparse_encoder_layers": 1, "num_sparse_decoder_layers": 1, "num_decoder_layers": 2},
    ),
    translating("umt5", "UMT5", _T5),
)
