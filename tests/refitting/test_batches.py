"""What a run is fed with: real tokens for every kind of model, nothing twice, and too little said in numbers."""

import json
import random
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

import layersmith.pocket
from layersmith.anatomy.limits import longest_input
from layersmith.errors import UserError
from layersmith.measuring.quality import quality
from layersmith.refitting.calibrate.batches import PURPOSES, Sizes, prepare
from tests.data.test_windows import CLS
from tests.data.test_windows import make as word_tokenizer
from tests.refitting.conftest import VOCABULARY, tiny_llama

SIZES = Sizes(length=64, per_batch=4, calibration=16, search=4, report=8, heal=8)
WANTED = {"fit": 768, "holdout": 256, "search": 256, "report": 512, "heal": 512}
WIDTHS = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(layersmith.pocket.path())


def paragraph(index: int, words: int) -> str:
    rng = random.Random(index)
    known = ["stream", "of", "tokens", "block", "adds", "what", "it", "knows", "before", "passing", "on", "the"]
    return f"number {index} " + " ".join(rng.choice(known) for _ in range(words))


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Short paragraphs, of 5 to 30 words."""
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_text("\n\n".join(paragraph(index, 5 + index % 26) for index in range(1500)))
    return str(path)


def bert(positions: int = 64) -> BertModel:
    return BertModel(BertConfig(vocab_size=VOCABULARY, max_position_embeddings=positions, **WIDTHS)).eval()


def bart() -> BartForConditionalGeneration:
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"layers": 1, "attention_heads": 4, "ffn_dim": 48}.items()
    }
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 2}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=VOCABULARY, d_model=32, max_position_embeddings=64, **sides, **tokens)
    ).eval()


def t5() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, decoder_start_token_id=1
        )
    ).eval()


def rows(batches, purpose):
    """The real tokens of every row of a purpose, as tuples."""
    found = []
    for batch in getattr(batches, purpose):
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
        found += [tuple(ids[real].tolist()) for ids, real in zip(batch["input_ids"], mask, strict=True)]
    return found


def test_every_model_gets_the_same_number_of_real_tokens(tokenizer, text):
    """An encoder's row is a short paragraph; counting rows, it was fitted on a tenth of what a causal model got."""
    short = tiny_llama(layers=1)
    short.config.max_position_embeddings = 24
    for model in (tiny_llama(layers=1), short, bert(), bert(positions=20)):
        got = prepare(model, tokenizer, text, SIZES, seed=0).tokens()
        assert "note" not in got
        for purpose, wanted in WANTED.items():
            assert 0.85 * wanted <= got[f"{purpose}_tokens"] <= 1.15 * wanted, (type(model), purpose)


def test_an_encoders_batches_hold_little_padding_and_one_paragraph_a_row(tokenizer, text):
    batches = prepare(bert(), tokenizer, text, SIZES, seed=0)
    everything = [batch for purpose in PURPOSES for batch in getattr(batches, purpose)]
    real = sum(int(batch["attention_mask"].sum()) for batch in everything)
    assert real > 0.7 * sum(batch["attention_mask"].numel() for batch in everything)
    assert real < 0.55 * sum(64 * len(batch["input_ids"]) for batch in everything)  # what whole windows would be
    # Not sorted from purpose to purpose: each sees short and long ones.
    means = {purpose: sum(map(len, rows(batches, purpose))) / len(rows(batches, purpose)) for purpose in PURPOSES}
    assert max(means.values()) < 1.5 * min(means.values())
    for row in rows(batches, "report"):
        assert tokenizer.decode(row).count("number") <= 1


def test_nothing_serves_two_purposes_even_where_the_text_repeats(tokenizer, tmp_path):
    """As many files, each with a paragraph of its own beside those that all of them hold, at shifting places."""
    for index in range(60):
        own = [paragraph(index * 100 + k, 40) for k in range(8)]
        common = [paragraph(-k - 1, 40) for k in range(8)]
        (tmp_path / f"{index}.txt").write_text("\n\n".join(own[: index % 8] + common + own[index % 8 :]))
    for model in (tiny_llama(layers=1), bert()):
        batches = prepare(model, tokenizer, str(tmp_path), SIZES, seed=0)
        found = [row for purpose in PURPOSES for row in rows(batches, purpose)]
        assert len(found) == len(set(found))
        whole = [tokenizer.decode(row) for row in found]
        assert sum(text.count("number -1 ") for text in whole) <= 1


def test_windows_of_a_causal_model_begin_with_its_beginning_of_text(tmp_path):
    rng = random.Random(0)
    lines = [" ".join(f"w{rng.randrange(400)}" for _ in range(60)) for _ in range(300)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines))
    for opens, expected in (("bos", True), ("", False)):
        batches = prepare(tiny_llama(layers=1), word_tokenizer(opens), str(tmp_path), SIZES, seed=0)
        for purpose in PURPOSES:
            assert {len(row) for row in rows(batches, purpose)} == {64}
            assert all((row[0] == CLS) == expected and row[1] != CLS for row in rows(batches, purpose))


def test_too_little_is_refused_with_the_numbers_and_little_is_noted(tokenizer, tmp_path):
    for index in range(60):
        (tmp_path / f"{index}.txt").write_text(paragraph(index, 10))
    for model in (tiny_llama(layers=1), bert()):
        with pytest.raises(
            UserError, match=r"too little distinct data: \d+ real tokens .* asked for and at least 128 ne"
        ):
            prepare(model, tokenizer, str(tmp_path), SIZES, seed=0)
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(paragraph(index, 30) for index in range(600)))
    batches = prepare(bert(), tokenizer, str(path), Sizes(length=64, calibration=400, search=4, report=8, heal=0), 0)
    note = batches.tokens()["note"]
    assert note.startswith("little distinct data: holdout ")
    assert "fit 19,200 were asked for" in note


def test_a_tokenizer_of_another_model_is_refused_by_its_id(tokenizer, text):
    model = tiny_llama(layers=1)
    model.resize_token_embeddings(300)
    for other in (model, BertModel(BertConfig(vocab_size=300, **WIDTHS))):
        with pytest.raises(UserError, match=r"token id \d+ .* 300 rows, for ids up to 299.*resize_token_embeddings"):
            prepare(other, tokenizer, text, SIZES, seed=0)


def test_rows_fit_into_a_models_positions(tokenizer, text):
    config = RobertaConfig(vocab_size=VOCABULARY, max_position_embeddings=20, pad_token_id=1, **WIDTHS)
    roberta = RobertaForMaskedLM(config).eval()
    assert longest_input(roberta) == 18
    batches = prepare(roberta, tokenizer, text, SIZES, seed=0)
    assert max(len(row) for row in rows(batches, "fit")) == 18
    assert quality(roberta, batches.report, roberta).divergence == 0.0


def test_a_classifier_without_padding_reads_one_row_at_a_time(tokenizer, text):
    config = LlamaConfig(vocab_size=VOCABULARY, num_labels=3, pad_token_id=None, **WIDTHS)
    model = LlamaForSequenceClassification(config).eval()
    batches = prepare(model, tokenizer, text, Sizes(length=64, calibration=8, search=4, report=4, heal=0), seed=0)
    assert {len(batch["input_ids"]) for batch in batches.fit + batches.report} == {1}
    assert quality(model, batches.report, model).divergence_kind == "kl"


@pytest.mark.parametrize("make", [t5, bart])
def test_an_encoder_decoder_goes_on_with_its_own_text(tokenizer, text, make):
    model = make()
    batches = prepare(model, tokenizer, text, SIZES, seed=0)
    whole = "".join(tokenizer.decode(tokenizer(Path(text).read_text())["input_ids"]).split())
    for batch in batches.report:
        decoder = batch["decoder_input_ids"]
        assert (decoder[:, 0] == model.config.decoder_start_token_id).all()
        for read, written in zip(rows(batches, "report")[:1], decoder[:1, 1:], strict=True):
            assert "".join(tokenizer.decode(read).split()) in whole
            assert "".join(tokenizer.decode(written[:4]).split()) in whole
    found = quality(model, batches.report, model)
    assert (found.divergence, found.divergence_kind) == (0.0, "kl")
    assert found.tokens < batches.tokens()["report_tokens"] <= 1.5 * WANTED["report"]


def test_an_encoder_decoder_reads_pairs_and_never_a_source_twice(tokenizer, tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = [
        {"source": paragraph(index % 400, 9), "target": f"answer {index % 400} " + "so " * (index % 7)}
        for index in range(800)
    ]
    path.write_text("\n".join(map(json.dumps, pairs)))
    model = bart()
    batches = prepare(model, tokenizer, str(path), Sizes(length=64, calibration=8, search=3, report=3, heal=4), seed=0)
    found = [row for purpose in PURPOSES for row in rows(batches, purpose)]
    assert len(found) == len(set(found))
    batch = batches.fit[0]
    for read, written, real in zip(
        batch["input_ids"], batch["decoder_input_ids"], batch["decoder_attention_mask"].bool(), strict=True
    ):
        number = tokenizer.decode(read).split()[1]
        assert tokenizer.decode(written[real][1:]).startswith(f"answer {number}")
    masked = quality(model, batches.report, model).tokens
    assert masked == sum(int(b["decoder_attention_mask"].sum()) for b in batches.report)
    with pytest.raises(UserError, match="several hold text"):
        prepare(tiny_llama(layers=1), tokenizer, str(path), SIZES, seed=0)
    with pytest.raises(UserError, match="source,target"):
        prepare(model, tokenizer, str(path), SIZES, seed=0, text_column="source,")
    with pytest.raises(UserError, match="is for tables"):
        prepare(model, tokenizer, "stdlib", SIZES, seed=0, text_column="source,target")


def test_a_model_of_pictures_needs_no_tokenizer(monkeypatch):
    monkeypatch.setattr("layersmith.data.pictures.find_spec", lambda name: None)  # the drawn set, which is larger
    config = ViTConfig(image_size=16, patch_size=8, num_labels=5, **WIDTHS)
    for model, kind in ((ViTForImageClassification(config), "kl"), (ViTModel(config), "relative_squared_error")):
        batches = prepare(model.eval(), None, "stdlib", SIZES, seed=0)
        assert batches.fit[0]["pixel_values"].shape[1:] == (3, 16, 16)
        facts = batches.tokens()
        assert facts["report_examples"] == WANTED["report"] // 4
        assert len(batches.heal) == SIZES.heal // SIZES.per_batch
        assert "small embedded set" in facts["pictures"]
        found = quality(model, batches.report, model)
        assert found.divergence_kind == kind
        assert found.divergence == 0.0
        assert (found.cosine_distance is None) == (kind == "kl")


def test_a_model_of_frames_is_judged_at_every_frame():
    conv = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (8, 8), "num_feat_extract_layers": 2}
    rest = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 12}
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**WIDTHS, **conv, **rest)).eval()
    batches = prepare(model, None, "stdlib", Sizes(length=64, calibration=16, search=8, report=8, heal=0), seed=0)
    found = quality(model, batches.report, model)
    assert found.divergence_kind == "kl"
    assert found.tokens == 499 * batches.tokens()["report_examples"]
    assert batches.heal == []


def test_a_model_that_listens_and_writes_goes_on_with_what_it_writes():
    sides = {
        f"{side}_{name}": value
        for side in ("encoder", "decoder")
        for name, value in {"layers": 1, "attention_heads": 4, "ffn_dim": 48}.items()
    }
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    places = {"max_source_positions": 50, "max_target_positions": 12, "num_mel_bins": 16}
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=64, d_model=32, **sides, **tokens, **places)
    ).eval()
    batches = prepare(model, None, "stdlib", SIZES, seed=0)
    batch = batches.report[0]
    ids = batch["decoder_input_ids"]
    assert ids.shape[1] == 12
    assert (ids[:, 0] == 3).all()
    with torch.no_grad():
        assert torch.equal(model(**batch).logits[:, :-1].argmax(-1), ids[:, 1:])
    assert quality(model, batches.report, model).divergence_kind == "kl"


def test_a_model_that_compares_text_and_pictures_is_judged_by_both(tokenizer, text):
    towers = {"vision_config": {**WIDTHS, "image_size": 16, "patch_size": 8}}
    towers["text_config"] = {**WIDTHS, "vocab_size": VOCABULARY, "max_position_embeddings": 32}
    model = CLIPModel(CLIPConfig(projection_dim=16, **towers)).eval()
    batches = prepare(model, tokenizer, text, SIZES, seed=0)
    assert len(batches.fit[0]["pixel_values"]) == len(batches.fit[0]["input_ids"])
    for tower in (model.visual_projection, model.text_projection):
        before = tower.weight.data.clone()
        original = CLIPModel(model.config).eval()
        original.load_state_dict(model.state_dict())
        tower.weight.data += 0.1 * torch.randn_like(before)
        changed = quality(model, batches.report, original)
        assert changed.divergence > 1e-4
        assert changed.divergence_kind == "relative_squared_error"
        tower.weight.data = before


def test_the_same_seed_gives_the_same_batches(tokenizer, text):
    first, again = (prepare(bert(), tokenizer, text, SIZES, seed=3) for _ in range(2))
    assert [rows(first, purpose) for purpose in PURPOSES] == [rows(again, purpose) for purpose in PURPOSES]
    assert rows(first, "fit") != rows(prepare(bert(), tokenizer, text, SIZES, seed=4), "fit")
