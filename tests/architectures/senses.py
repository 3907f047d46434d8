"""Models of pictures and of sound, and of pictures with text."""

from __future__ import annotations

from typing import Any

from tests.architectures.builders import GROUPED, SPECIAL, WORDS, Architecture, table

_SEES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 4,
}

SENSES = table(
    Architecture("vit", "ViTForImageClassification", "ViTConfig", _SEES),
    Architecture("dinov2", "Dinov2ForImageClassification", "Dinov2Config", _SEES | {"mlp_ratio": 2}),
    Architecture(
        "swin",
        "SwinForImageClassification",
        "SwinConfig",
        {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    Architecture(
        "segformer",
        "SegformerForSemanticSegmentation",
        "SegformerConfig",
        {
            "num_labels": 5,
            "hidden_sizes": [16, 16, 32, 32],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 4, 4],
            "decoder_hidden_size": 32,
        },
    ),
    Architecture(
        "clip",
        "CLIPModel",
        "CLIPConfig",
        {
            "text_config": {
                "vocab_size": WORDS,
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "max_position_embeddings": 64,
            }
            | SPECIAL,
            "vision_config": _SEES,
            "projection_dim": 16,
        },
    ),
    Architecture(
        "wav2vec2",
        "Wav2Vec2ForCTC",
        "Wav2Vec2Config",
        {
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
        },
    ),
    Architecture(
        "llava",
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": {"model_type": "llama", **GROUPED},
            "vision_config": {"model_type": "clip_vision_model", **_SEES, "num_hidden_layers": 3},
            "image_token_index": 5,
        },
    ),
)
