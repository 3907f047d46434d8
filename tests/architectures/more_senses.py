"""More models of pictures and sound, one small model each, for the sweep of every architecture."""

from __future__ import annotations

from typing import Any

from tests.architectures.builders import SPECIAL, WORDS, Architecture, table

_SEES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}
_HEARS: dict[str, Any] = {
    "vocab_size": 32,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "conv_dim": [16, 16],
    "conv_kernel": [20, 8],
    "conv_stride": [20, 8],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "num_feat_extract_layers": 2,
}


def classifying(name: str, prefix: str, settings: dict[str, Any]) -> Architecture:
    return Architecture(name, f"{prefix}ForImageClassification", f"{prefix}Config", settings)


MORE_SENSES = table(
    classifying("beit", "Beit", _SEES),
    classifying("data2vec_vision", "Data2VecVision", _SEES),
    classifying("deit", "DeiT", _SEES),
    classifying("dinov2_with_registers", "Dinov2WithRegisters", _SEES | {"mlp_ratio": 2}),
    Architecture("dinov3_vit", "DINOv3ViTModel", "DINOv3ViTConfig", _SEES),
    classifying(
        "donut_swin",
        "DonutSwin",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    classifying("ijepa", "IJepa", _SEES),
    classifying(
        "mobilevit",
        "MobileViT",
        {
            "image_size": 32,
            "hidden_sizes": [16, 16, 16],
            "neck_hidden_sizes": [8, 8, 8, 8, 8, 8, 16],
            "num_attention_heads": 2,
            "patch_size": 2,
        },
    ),
    classifying("poolformer", "PoolFormer", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
    classifying(
        "pvt",
        "Pvt",
        {
            "image_size": 32,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 2],
            "mlp_ratios": [2, 2, 2, 2],
        },
    ),
    classifying(
        "pvt_v2",
        "PvtV2",
        {
            "image_size": 32,
            "hidden_sizes": [8, 8, 16, 16],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 2],
            "mlp_ratios": [2, 2, 2, 2],
        },
    ),
    classifying("siglip", "Siglip", {"vision_config": _SEES, "text_config": {**_SEES, "vocab_size": WORDS}}),
    classifying("vit_msn", "ViTMSN", _SEES),
    classifying(
        "swinv2",
        "Swinv2",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    Architecture("clip_vision", "CLIPVisionModel", "CLIPVisionConfig", _SEES),
    Architecture("vit_body", "ViTModel", "ViTConfig", _SEES),
    Architecture("vit_mae", "ViTMAEModel", "ViTMAEConfig", _SEES | {"mask_ratio": 0.0}),
    Architecture(
        "yolos", "YolosForObjectDetection", "YolosConfig", _SEES | {"image_size": [16, 16], "num_detection_tokens": 4}
    ),
    Architecture("hubert", "HubertForCTC", "HubertConfig", _HEARS),
    Architecture("wavlm", "WavLMForCTC", "WavLMConfig", _HEARS),
    Architecture("unispeech_sat", "UniSpeechSatForCTC", "UniSpeechSatConfig", _HEARS),
    Architecture("sew", "SEWForCTC", "SEWConfig", _HEARS | {"squeeze_factor": 2}),
    Architecture(
        "data2vec_audio",
        "Data2VecAudioForCTC",
        "Data2VecAudioConfig",
        _HEARS | {"conv_pos_kernel_size": 5, "num_conv_pos_embeddings": 2},
    ),
    Architecture(
        "wav2vec2_classifier",
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        _HEARS | {"classifier_proj_size": 16},
    ),
    Architecture(
        "ast",
        "ASTForAudioClassification",
        "ASTConfig",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 4,
            "frequency_stride": 4,
            "time_stride": 4,
            "max_length": 32,
            "num_mel_bins": 16,
        },
    ),
    Architecture(
        "speech_to_text",
        "Speech2TextForConditionalGeneration",
        "Speech2TextConfig",
        SPECIAL
        | {
            "vocab_size": WORDS,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_source_positions": 64,
            "max_target_positions": 64,
            "input_feat_per_channel": 16,
            "conv_channels": 16,
        },
    ),
    Architecture(
        "moonshine",
        "MoonshineForConditionalGeneration",
        "MoonshineConfig",
        SPECIAL
        | {
            "vocab_size": WORDS,
            "hidden_size": 32,
            "intermediate_size": 48,
            "encoder_num_hidden_layers": 2,
            "decoder_num_hidden_layers": 2,
            "encoder_num_attention_heads": 4,
            "decoder_num_attention_heads": 4,
            "max_position_embeddings": 64,
            "decoder_start_token_id": 1,
        },
    ),
)
