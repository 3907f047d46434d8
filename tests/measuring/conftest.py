"""Tiny models for the measure room."""

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)


def llama(seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.5,  # logits far from uniform, so that differences show
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def tiny() -> PreTrainedModel:
    return llama(0)


@pytest.fixture
def other() -> PreTrainedModel:
    return llama(1)


@pytest.fixture
def encoder() -> PreTrainedModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertModel(BertConfig(vocab_size=64, max_position_embeddings=64, **sizes)).eval()


@pytest.fixture
def encoder_decoder() -> PreTrainedModel:
    torch.manual_seed(0)
    config = T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=0)
    return T5ForConditionalGeneration(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, at most 64 tokens: end-of-text, padding and the bytes that the tests' plain text is made of."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:;()[]{}<>=+-*/_'\"#!?ĠĊ"
    vocabulary = {"<end>": 0} | {letter: i + 1 for i, letter in enumerate(letters)}
    backend = Tokenizer(models.BPE(vocabulary | {"<pad>": 63}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", pad_token="<pad>")
