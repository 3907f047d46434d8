"""A result of a sentence encoder, opened by sentence-transformers: its pooling and normalisation are still there."""

import json

import pytest
import torch
import transformers as tf

from layersmith.checkpoint import load, save
from tests.anatomy.families import BY_NAME

library = pytest.importorskip("sentence_transformers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
TEXTS = ["a b c", "d e f g h i j k", "z"]


@pytest.fixture
def result(tmp_path):
    """A tiny encoder with a narrower feed-forward everywhere, saved from a folder that sentence-transformers reads."""
    model = BY_NAME["bert"].model()
    body = tf.BertModel(model.config)
    source, folder = tmp_path / "source", tmp_path / "model"
    body.save_pretrained(source)
    (source / "vocab.txt").write_text("\n".join(WORDS))
    tf.BertTokenizerFast(vocab_file=str(source / "vocab.txt")).save_pretrained(source)
    (source / "modules.json").write_text(json.dumps(MODULES))
    (source / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    (source / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": model.config.hidden_size, "pooling_mode_mean_tokens": True}
    (source / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (source / "2_Normalize").mkdir()
    loaded, tokenizer = load(source)
    from layersmith import api

    part = api.build("mlp", d_model=model.config.hidden_size, d_hidden=12, act="gelu", bias=True)
    made = api.apply(loaded, {"layers.*.ffn": part})
    save(loaded, made, folder, tokenizer)
    return folder, loaded, tokenizer


def test_pooling_and_normalisation_are_kept(result):
    folder, model, tokenizer = result
    encoder = library.SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    found = torch.tensor(encoder.encode(TEXTS))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(len(TEXTS)))
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    mean = (hidden * mask).sum(1) / mask.sum(1)
    torch.testing.assert_close(found, mean / mean.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert encoder.max_seq_length == 16


@pytest.mark.real
def test_minilm_refitted_is_still_a_sentence_encoder(minilm_path, tmp_path):
    from layersmith.refitting.pipeline import refit

    made = refit(
        str(minilm_path),
        budget={"params": 0.98},
        methods=["width"],
        out=tmp_path,
        effort=0.02,
        heal_tokens=0,
        at="prefill=1x32",
        progress=False,
    )
    folder = str(made.folder / "model")
    encoder = library.SentenceTransformer(folder, trust_remote_code=True, device="cpu")
    near, far = ["A man is eating food.", "A man eats something."], "The stock market fell today."
    a, b, c = torch.tensor(encoder.encode([*near, far]))
    assert float(a @ b) > float(a @ c) + 0.2
    assert float(a.norm()) == pytest.approx(1, abs=1e-4)
