"""Sound: what a file holds is what the model hears, through its own extractor, and no clip is in two splits."""

import json
import sys
import types
import wave

import numpy as np
import pytest
import torch
from transformers import (
    ASTConfig,
    ASTModel,
    Wav2Vec2BertConfig,
    Wav2Vec2BertModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from layersmith.data import sound
from layersmith.data.sound import clips, frames, read_sound, tone
from layersmith.data.splits import SPLITS
from layersmith.errors import MissingExtra, UserError

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.fixture
def wav2vec2():
    conv = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (8, 8), "num_feat_extract_layers": 2}
    rest = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 12}
    return Wav2Vec2ForCTC(Wav2Vec2Config(**SIZES, **conv, **rest)).eval()


@pytest.fixture
def whisper():
    sizes = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
    heads = {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    places = {"max_source_positions": 100, "max_target_positions": 20, "num_mel_bins": 80}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    return WhisperForConditionalGeneration(WhisperConfig(vocab_size=64, **sizes, **heads, **places, **tokens)).eval()


def write(path, samples: np.ndarray, rate: int, width: int = 2):
    """(samples, channels) in [-1, 1) as whole numbers of that many bytes."""
    top = 2 ** (8 * width - 1)
    numbers = np.clip(np.round(samples * top), -top, top - 1).astype(np.int64)
    numbers = numbers + top if width == 1 else numbers
    raw = b"".join(int(n).to_bytes(width, "little", signed=width > 1) for n in numbers.flatten())
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(raw)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_whole_numbers_of_every_width_are_read_right(tmp_path, width):
    wanted = np.stack([np.linspace(-1, 0.9, 200), np.linspace(0.5, -0.5, 200)], axis=1)
    write(tmp_path / "a.wav", wanted, 16_000, width)
    found = read_sound(tmp_path / "a.wav", 16_000)
    assert found.dtype == np.float32
    assert np.abs(found - wanted.mean(axis=1)).max() < max(2 / 2 ** (8 * width - 1), 1e-7)  # float32 holds 24 bits


def test_another_rate_is_resampled(tmp_path):
    time = np.arange(8000) / 8000
    write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time)[:, None], 8000)
    found = read_sound(tmp_path / "a.wav", 16_000)
    assert len(found) == 16_000
    assert np.argmax(np.abs(np.fft.rfft(found))) == 440


def test_the_models_own_extractor_is_used(wav2vec2, whisper, tmp_path):
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path / "w2v")
    wav2vec2.config._name_or_path = wav2vec2.name_or_path = str(tmp_path / "w2v")
    found, facts = clips(wav2vec2, "stdlib", "heldout", 3, seed=0)
    assert [tuple(clip.shape) for clip in found] == [(16_000,)] * 3  # 2 s
    assert float(found[0].mean()) == pytest.approx(0, abs=1e-4)
    assert float(found[0].std()) == pytest.approx(1, abs=1e-2)
    assert "Wav2Vec2FeatureExtractor" in facts
    settings = WhisperFeatureExtractor(chunk_length=2).to_dict()
    (tmp_path / "whisper").mkdir()  # as a processor of several parts is saved
    (tmp_path / "whisper" / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    whisper.config._name_or_path = whisper.name_or_path = str(tmp_path / "whisper")
    found, facts = clips(whisper, "stdlib", "heldout", 3, seed=0)
    assert found[0].shape == (80, 200)
    assert "WhisperFeatureExtractor" in facts


def test_without_its_files_inputs_have_the_size_of_the_config(wav2vec2, whisper):
    spectra = ASTModel(ASTConfig(**SIZES, max_length=64, num_mel_bins=32))
    fbank = Wav2Vec2BertModel(Wav2Vec2BertConfig(**SIZES, feature_projection_input_dim=24))
    for model, shape in (
        (wav2vec2, (32_000,)),
        (whisper, (80, 200)),
        (spectra, (64, 32)),
        (fbank, (sound.DEFAULT_FRAMES, 24)),
    ):
        found, facts = clips(model, "stdlib", "train", 2, seed=0)
        assert [tuple(clip.shape) for clip in found] == [shape] * 2
        assert float(found[0].abs().max()) == pytest.approx(1, abs=0.01)
        assert not torch.equal(found[0], found[1])
        with torch.no_grad():
            start = {"decoder_input_ids": torch.full((2, 1), 3)} if model is whisper else {}
            model(**{model.main_input_name: torch.stack(found)}, **start)
        assert "no feature extractor's files" in facts
    assert frames(wav2vec2, torch.zeros(32_000)) == sound.MOST_TOKENS
    assert frames(wav2vec2, torch.zeros(6400)) == 100
    assert frames(whisper, torch.zeros(80, 200)) == 100


@pytest.mark.parametrize("files", [4, 60])
def test_no_clip_is_in_two_splits(wav2vec2, tmp_path, monkeypatch, files):
    """A few long recordings are split by clips, many by file; copies under other names are one."""
    monkeypatch.setattr(sound, "SECONDS", 0.02)
    for index in range(files):
        samples = np.concatenate([tone(100 * index + piece, 320, 16_000) for piece in range(6)])[:, None]
        write(tmp_path / f"{index}.wav", samples, 16_000)
        write(tmp_path / f"copy of {index}.wav", samples, 16_000)
    parts = {split: clips(wav2vec2, str(tmp_path), split, 10_000, seed=0)[0] for split in SPLITS}
    found = [clip.numpy().tobytes() for part in parts.values() for clip in part]
    assert all(parts.values())
    assert len(found) == len(set(found)) == 6 * files


def test_a_recording_shorter_than_a_clip_is_followed_by_silence(wav2vec2, tmp_path):
    for index in range(6):
        write(tmp_path / f"{index}.wav", tone(index, 1000, 16_000)[:, None], 16_000)
    found, _ = clips(wav2vec2, str(tmp_path), "train", 9, seed=0)
    assert found[0].shape == (32_000,)
    assert not found[0][1000:].any()


def test_what_cannot_be_heard_is_refused(wav2vec2, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="this model takes recordings, not text"):
        clips(wav2vec2, str(tmp_path), "train", 3, seed=0)
    (tmp_path / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(UserError, match=r"a\.wav' cannot be read as sound"):
        clips(wav2vec2, str(tmp_path), "train", 3, seed=0)
    (tmp_path / "a.wav").unlink()
    (tmp_path / "a.flac").write_bytes(b"fLaC")
    monkeypatch.setattr(sound, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"soundfile.*pip install '\.\[audio\]'"):
        clips(wav2vec2, str(tmp_path), "train", 3, seed=0)
    write(tmp_path / "b.wav", tone(0, 1000, 16_000)[:, None], 16_000)
    (tmp_path / "a.flac").unlink()
    with pytest.raises(UserError, match=r"1 distinct clip\(s\) of 2 s in 1 file\(s\)"):
        clips(wav2vec2, str(tmp_path), "train", 3, seed=0)


def test_flac_by_soundfile(tmp_path, monkeypatch):
    reader = types.SimpleNamespace(read=lambda path, dtype, always_2d: (np.ones((10, 2), np.float32), 16_000))
    monkeypatch.setitem(sys.modules, "soundfile", reader)
    monkeypatch.setattr(sound, "find_spec", lambda name: True)
    assert read_sound(tmp_path / "a.flac", 16_000).tolist() == [1.0] * 10
