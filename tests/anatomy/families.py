"""Tiny random models of every supported architecture, with what find_sites must say about each. Shared by tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers as tf
from torch import nn

PRE = ("attn_norm", "attn", "ffn_norm", "ffn")
POST = ("attn", "attn_norm", "ffn", "ffn_norm")
CROSS = ("attn_norm", "attn", "cross_attn_norm", "cross_attn", "ffn_norm", "ffn")


@dataclass(frozen=True)
class Family:
    """One architecture.

    roles    for each stack, the sites inside each of its blocks in execution order
    causal   the stacks whose attention is causal
    blocks   number of blocks per stack
    extra    sites outside the blocks
    locked   sites no operator may stand at
    exact    whether Replay can run it block by block
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], dict[str, Any]]
    roles: dict[str, tuple[str, ...]]
    causal: tuple[str, ...] = ()
    blocks: int = 2
    calls: int = 1
    extra: tuple[str, ...] = ()
    locked: tuple[str, ...] = field(default=())
    generates: bool = False
    exact: bool = True

    def model(self) -> nn.Module:
        """The model, seeded. Weights are larger than at a usual start, so that every part makes a difference."""
        torch.manual_seed(0)
        model = self.build().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(4.0)
        return model


def _tokens(vocabulary: int = 96, tokens: int = 11) -> torch.Tensor:
    return torch.randint(5, vocabulary, (2, tokens), generator=torch.Generator().manual_seed(1))


def _text() -> dict[str, Any]:
    return {"input_ids": _tokens()}


def _text_padded() -> dict[str, Any]:
    mask = torch.ones(2, 11, dtype=torch.long)
    mask[1, 8:] = 0
    return {"input_ids": _tokens(), "attention_mask": mask}


def _text_to_text() -> dict[str, Any]:
    return {"input_ids": _tokens(), "decoder_input_ids": _tokens(tokens=6)}


def _speech() -> dict[str, Any]:
    features = torch.randn(2, 8, 48, generator=torch.Generator().manual_seed(1))
    return {"input_features": features, "decoder_input_ids": _tokens(tokens=6)}


def _image() -> dict[str, Any]:
    return {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))}


def _floats() -> dict[str, Any]:
    return {"src": torch.randn(2, 11, 16, generator=torch.Generator().manual_seed(1))}


_DECODER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_ENCODER: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
_IMAGE: dict[str, Any] = {
    "image_size": 16,
    "patch_size": 4,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_GPT2: dict[str, Any] = {
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_OPT: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "word_embed_proj_dim": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_T5: dict[str, Any] = {
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
_ALBERT: dict[str, Any] = {
    "vocab_size": 96,
    "embedding_size": 16,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def _whisper() -> nn.Module:
    return tf.WhisperForConditionalGeneration(
        tf.WhisperConfig(
            vocab_size=96,
            num_mel_bins=8,
            d_model=32,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            max_source_positions=24,
            max_target_positions=32,
            decoder_start_token_id=3,
            bos_token_id=3,
            eos_token_id=2,
            pad_token_id=2,
            suppress_tokens=None,
            begin_suppress_tokens=None,
        )
    )


def _torch_encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(16, 4, 24, norm_first=norm_first, batch_first=True)
    return nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(16), enable_nested_tensor=not norm_first)


def _decoder(name: str, build: Callable[[], nn.Module], **changes: Any) -> Family:
    settings: dict[str, Any] = {
        "inputs": _text,
        "roles": {"": PRE},
        "causal": ("",),
        "extra": ("final_norm",),
        "generates": True,
    }
    return Family(name, build, **{**settings, **changes})


def _two_stacks(name: str, build: Callable[[], nn.Module], **changes: Any) -> Family:
    settings: dict[str, Any] = {
        "roles": {"encoder": PRE, "decoder": CROSS},
        "causal": ("decoder",),
        "extra": ("encoder.final_norm", "decoder.final_norm"),
        "generates": True,
        "exact": False,
    }
    return Family(name, build, **{**settings, **changes})


_GEMMA = ("attn_norm", "attn", "attn_post_norm", "ffn_norm", "ffn", "ffn_post_norm")

FAMILIES: tuple[Family, ...] = (
    _decoder("llama", lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**_DECODER))),
    _decoder("mistral", lambda: tf.MistralForCausalLM(tf.MistralConfig(**_DECODER, sliding_window=4))),
    _decoder("qwen2", lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**_DECODER))),
    _decoder("qwen3", lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**_DECODER, head_dim=8))),
    _decoder("smollm3", lambda: tf.SmolLM3ForCausalLM(tf.SmolLM3Config(**_DECODER))),
    _decoder(
        "gemma3",
        lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**_DECODER, head_dim=8, sliding_window=4)),
        roles={"": _GEMMA},
    ),
    _decoder(
        "mixtral",
        lambda: tf.MixtralForCausalLM(tf.MixtralConfig(**_DECODER, num_local_experts=4, num_experts_per_tok=2)),
    ),
    _decoder("gpt2", lambda: tf.GPT2LMHeadModel(tf.GPT2Config(**_GPT2))),
    _decoder("gpt_neox", lambda: tf.GPTNeoXForCausalLM(tf.GPTNeoXConfig(**_ENCODER))),
    _decoder("opt", lambda: tf.OPTForCausalLM(tf.OPTConfig(**_OPT))),
    _decoder(
        "opt_post_norm",
        lambda: tf.OPTForCausalLM(tf.OPTConfig(**_OPT, do_layer_norm_before=False)),
        roles={"": POST},
        extra=(),
    ),
    Family("bert", lambda: tf.BertForMaskedLM(tf.BertConfig(**_ENCODER)), _text_padded, {"": POST}),
    Family("roberta", lambda: tf.RobertaForMaskedLM(tf.RobertaConfig(**_ENCODER)), _text_padded, {"": POST}),
    Family(
        "distilbert",
        lambda: tf.DistilBertForMaskedLM(
            tf.DistilBertConfig(
                vocab_size=96, dim=32, hidden_dim=48, n_layers=2, n_heads=4, max_position_embeddings=64
            )
        ),
        _text_padded,
        {"": POST},
    ),
    Family(
        "albert",
        lambda: tf.AlbertForMaskedLM(tf.AlbertConfig(**_ALBERT)),
        _text_padded,
        {"": POST},
        blocks=1,
        calls=3,
        exact=False,
    ),
    Family(
        "vit",
        lambda: tf.ViTForImageClassification(tf.ViTConfig(**_IMAGE, intermediate_size=48)),
        _image,
        {"": PRE},
        extra=("final_norm",),
    ),
    Family(
        "dinov2",
        lambda: tf.Dinov2ForImageClassification(tf.Dinov2Config(**_IMAGE, mlp_ratio=2)),
        _image,
        {"": PRE},
        extra=("final_norm",),
    ),
    Family(
        "torch_pre_norm", lambda: _torch_encoder(True), _floats, {"": PRE}, extra=("final_norm",)
    ),
    Family(
        "torch_post_norm", lambda: _torch_encoder(False), _floats, {"": POST}, extra=("final_norm",)
    ),
    _two_stacks("whisper", _whisper, inputs=_speech),
    _two_stacks(
        "t5",
        lambda: tf.T5ForConditionalGeneration(tf.T5Config(**_T5)),
        inputs=_text_to_text,
        locked=("encoder.layers.0", "encoder.layers.0.attn", "decoder.layers.0", "decoder.layers.0.attn"),
    ),
)  # fmt: skip

BY_NAME = {family.name: family for family in FAMILIES}
