"""Tiny models of five shapes, with weights large enough to be far from linear, and pocket's tokenizer for them."""

import pytest
import torch
import transformers as tf
from transformers import AutoTokenizer

import layersmith
import layersmith.pocket

VOCABULARY = 4096  # pocket's tokenizer fits

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
BUILDERS = {
    "llama": lambda: tf.LlamaForCausalLM(
        tf.LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=64, **SIZES)
    ),
    "gpt2": lambda: tf.GPT2LMHeadModel(
        tf.GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    ),
    "bert": lambda: tf.BertForMaskedLM(tf.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **SIZES)),
    "vit": lambda: tf.ViTForImageClassification(tf.ViTConfig(image_size=32, patch_size=8, num_labels=5, **SIZES)),
    "t5": lambda: tf.T5ForConditionalGeneration(
        tf.T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, decoder_start_token_id=1
        )
    ),
}
#: Shapes that only some tests want: a masked model whose norms leave the stream alone.
OTHERS = {
    "roberta": lambda: tf.RobertaPreLayerNormForMaskedLM(
        tf.RobertaPreLayerNormConfig(vocab_size=VOCABULARY, max_position_embeddings=66, pad_token_id=0, **SIZES)
    ),
}


def tiny(shape: str) -> torch.nn.Module:
    torch.manual_seed(0)
    model = (BUILDERS | OTHERS)[shape]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
    return model


@pytest.fixture(scope="session")
def tokenizer():
    return AutoTokenizer.from_pretrained(layersmith.pocket.path())


@pytest.fixture(scope="session")
def pocket():
    """A model that has learned something: there, leaving a sublayer out costs loss."""
    return layersmith.load("pocket")[0]


@pytest.fixture
def llama():
    return tiny("llama")
