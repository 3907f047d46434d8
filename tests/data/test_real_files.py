"""Pictures and sound by the libraries that users have: Pillow, soundfile, scikit-learn, and no stand-ins.

Nothing here is needed to use text, so what is not installed is skipped, and said.
"""

from __future__ import annotations

import json
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
)

from layersmith.checkpoint import load, verify
from layersmith.data import pictures as pictures_room
from layersmith.data.pictures import draw, pictures
from layersmith.data.sound import clips, read_sound, tone
from layersmith.errors import UserError
from layersmith.refitting.pipeline import refit
from tests.architectures.sweep import _reloaded_here

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 16, "width": 16},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.25, 0.5, 0.75],
    "image_std": [0.5, 0.25, 0.5],
}
QUICK = {"at": "prefill=1x5", "effort": 0.02, "distill_steps": 0, "heal_tokens": 0, "progress": False}


@pytest.fixture
def image() -> Any:
    return pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install '.[dev]')")


@pytest.fixture
def soundfile() -> Any:
    return pytest.importorskip("soundfile", reason="soundfile is not installed (pip install '.[dev]')")


def vit(folder: Path, processor: bool) -> Any:
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=5, **SIZES))
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return load(folder)[0]


def saved(image: Any, path: Path, index: int, mode: str = "RGB", size: int = 16) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.fromarray(draw(index, size, size)).convert(mode).save(path)


def test_the_models_processor_sees_the_pixels_of_the_files(image: Any, tmp_path: Path) -> None:
    """Rescaled and normalised by hand, channel by channel; losslessly stored, so equal."""
    model = vit(tmp_path / "model", processor=True)
    for index in range(12):
        saved(image, tmp_path / "data" / f"class {index % 2}" / f"{index}.png", index)
    found, facts = pictures(model, str(tmp_path / "data"), "train", 99, seed=0)
    mean, deviation = (torch.tensor(PROCESSOR[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    expected = [torch.from_numpy(draw(i, 16, 16)).permute(2, 0, 1) / 255 for i in range(12)]
    for picture in found:
        assert min(float((picture * deviation + mean - other).abs().max()) for other in expected) < 1e-5
    assert "through the model's own processor (ViTImageProcessor" in facts


@pytest.mark.parametrize("processor", [True, False], ids=["processor", "plain"])
def test_every_kind_of_file(image: Any, tmp_path: Path, processor: bool) -> None:
    """Colour, grey, palette, with alpha and in black and white; png, jpg and webp; of several sizes."""
    model = vit(tmp_path / "model", processor)
    kinds = [("RGB", "png"), ("L", "jpg"), ("P", "png"), ("RGBA", "png"), ("1", "png"), ("RGB", "webp"), ("L", "JPEG")]
    for index in range(28):
        mode, ending = kinds[index % len(kinds)]
        saved(image, tmp_path / "data" / f"{index}.{ending}", index, mode, 12 + index % 9)
    parts = [pictures(model, str(tmp_path / "data"), split, 99, 0)[0] for split in ("train", "calibration", "heldout")]
    assert sum(map(len, parts)) == 28
    assert {tuple(picture.shape) for part in parts for picture in part} == {(3, 16, 16)}
    assert all(picture.isfinite().all() for part in parts for picture in part)


@pytest.mark.parametrize("damage", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, None])
def test_damaged_pictures_are_named(image: Any, tmp_path: Path, damage: bytes | None) -> None:
    model = vit(tmp_path / "model", processor=False)
    for index in range(12):
        saved(image, tmp_path / "data" / f"{index}.png", index)
        whole = (tmp_path / "data" / f"{index}.png").read_bytes()
        content = whole[: len(whole) // 2] if damage is None else damage + bytes([index])
        (tmp_path / "data" / f"{index}.png").write_bytes(content)
    with pytest.raises(UserError, match=r"\.png' cannot be read as a picture: \w.*"):
        pictures(model, str(tmp_path / "data"), "train", 3, seed=0)


def test_a_picture_larger_than_memory_is_refused(image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 50)
    model = vit(tmp_path / "model", processor=False)
    for index in range(12):
        saved(image, tmp_path / "data" / f"{index}.png", index)
    with pytest.raises(UserError, match=r"cannot be read as a picture: .*pixels"):
        pictures(model, str(tmp_path / "data"), "train", 3, seed=0)


@pytest.mark.parametrize(
    "settings",
    [{"image_processor_type": 5}, {"image_processor_type": "Nope"}, {**PROCESSOR, "size": "large"}, {"size": 3}],
    ids=str,
)
def test_a_processor_that_does_not_work_is_named(image: Any, tmp_path: Path, settings: dict[str, Any]) -> None:
    vit(tmp_path / "model", processor=False)
    (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(settings))
    model, _ = load(tmp_path / "model")
    try:
        found, _ = pictures(model, "stdlib", "heldout", 2, seed=0)
    except UserError as refused:
        assert str(tmp_path / "model") in str(refused)  # noqa: PT017  (either is right: transformers may know a way)
    else:
        assert found[0].isfinite().all()


def test_a_whole_refit_on_a_folder_of_pictures(image: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_run", _reloaded_here)
    vit(tmp_path / "model", processor=True)
    for index in range(60):
        saved(image, tmp_path / "data" / f"{index}.png", index)
    asked = {"budget": {"params": 0.9}, "methods": ["linear"], "out": tmp_path / "run", **QUICK}
    result = refit(str(tmp_path / "model"), data=str(tmp_path / "data"), **asked)
    assert result.meets_budget
    assert "60 distinct pictures, through the model's own processor" in result["data"]["pictures"]
    kept = json.loads((tmp_path / "run" / "model" / "preprocessor_config.json").read_text())
    assert kept == PROCESSOR


def test_digits_are_the_embedded_pictures(image: Any, tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (pip install '.[dev]')")
    for processor in (False, True):
        model = vit(tmp_path / str(processor), processor)
        found, facts = pictures(model, "stdlib", "train", 20, seed=0)
        assert "1,797 pictures (scikit-learn's handwritten digits" in facts
        assert {tuple(picture.shape) for picture in found} == {(3, 16, 16)}
        assert len({picture.numpy().tobytes() for picture in found}) == 20
    assert pictures_room.find_spec("sklearn")


@pytest.mark.parametrize(("ending", "subtype"), [("flac", "PCM_16"), ("flac", "PCM_24"), ("wav", "FLOAT")])
def test_what_soundfile_reads_is_what_was_written(soundfile: Any, tmp_path: Path, ending: str, subtype: str) -> None:
    left, right = tone(0, 4000, 16_000) / 2, tone(1, 4000, 16_000) / 2
    soundfile.write(tmp_path / f"a.{ending}", np.stack([left, right], axis=1), 16_000, subtype=subtype)
    found = read_sound(tmp_path / f"a.{ending}", 16_000)
    assert np.abs(found - (left + right) / 2).max() < 1e-4


@pytest.mark.parametrize("content", [b"", b"fLaC", b"fLaC" + b"\0" * 60, b"RIFF"])
def test_damaged_recordings_are_named(soundfile: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.flac").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.flac' cannot be read as sound: \w"):
        read_sound(tmp_path / "a.flac", 16_000)


def test_numbers_that_are_none_are_refused(soundfile: Any, tmp_path: Path) -> None:
    samples = tone(0, 4000, 16_000)
    samples[7] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    with pytest.raises(UserError, match="holds NaN or infinity"):
        read_sound(tmp_path / "a.wav", 16_000)


@pytest.mark.parametrize("rate", [1, 999, 2**31 - 1])
def test_an_impossible_rate_is_refused_at_once(tmp_path: Path, rate: int) -> None:
    """To resample from it would take a filter of as many numbers."""
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(bytes(2000))
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = struct.pack("<I", rate)
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(UserError, match="samples a second"):
        read_sound(tmp_path / "a.wav", 16_000)


def test_a_whole_refit_on_a_folder_of_sound(soundfile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "_run", _reloaded_here)
    conv = {"conv_dim": (8, 8), "conv_kernel": (10, 8), "conv_stride": (8, 8), "num_feat_extract_layers": 2}
    rest = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "vocab_size": 12}
    torch.manual_seed(0)
    Wav2Vec2ForCTC(Wav2Vec2Config(**SIZES, **conv, **rest)).save_pretrained(tmp_path / "model")
    Wav2Vec2FeatureExtractor(sampling_rate=8000).save_pretrained(tmp_path / "model")
    (tmp_path / "data").mkdir()
    for index in range(12):
        soundfile.write(tmp_path / "data" / f"{index}.flac", tone(index, 80_000, 16_000), 16_000)
    asked = {"budget": {"params": 0.95}, "methods": ["linear"], "out": tmp_path / "run", **QUICK}
    result = refit(str(tmp_path / "model"), data=str(tmp_path / "data"), **asked)
    assert result.meets_budget
    assert "12 distinct recordings, through the model's own feature extractor" in result["data"]["sound"]
    assert (tmp_path / "run" / "model" / "preprocessor_config.json").is_file()
    model, _ = load(tmp_path / "run" / "model")
    assert clips(model, "stdlib", "heldout", 1, seed=0)[0][0].shape == (16_000,)
