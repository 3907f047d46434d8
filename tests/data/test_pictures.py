"""Pictures: the model's own processor where files are given, the config's size where there is none, and never twice."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from layersmith.data import pictures as room
from layersmith.data.pictures import draw, patches, picture_size, pictures
from layersmith.errors import MissingExtra, UserError

PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 16, "width": 16},
    "image_mean": [0.25, 0.5, 0.75],
    "image_std": [0.5, 0.25, 0.5],
}


@pytest.fixture
def vit() -> ViTForImageClassification:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_labels=5, **sizes)).eval()


@pytest.fixture
def folder(tmp_path):
    """Thirty files of three classes; the contents of ten of them stand in ten others, too."""
    for index in range(30):
        path = tmp_path / f"class {index % 3}" / f"{index}.{('png', 'jpg', 'webp')[index % 3]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes([index % 20]) * 50)
    return str(tmp_path)


@pytest.fixture
def pillow(monkeypatch):
    """A Pillow that takes a file's bytes for a grey picture of 20 x 20, for machines without the real one."""

    class Picture:
        def __init__(self, path):
            self.grey = path.read_bytes()[0]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def convert(self, mode):
            assert mode == "RGB"
            return np.full((20, 20, 3), self.grey, np.uint8)

    image = types.SimpleNamespace(open=Picture, DecompressionBombError=ValueError)
    monkeypatch.setitem(sys.modules, "PIL", types.SimpleNamespace(Image=image))
    monkeypatch.setattr(room, "find_spec", lambda name: name == "PIL")


def test_the_embedded_set_has_the_size_of_the_config_and_the_range_it_says(vit, monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    found, facts = pictures(vit, "stdlib", "calibration", 12, seed=0)
    assert [tuple(picture.shape) for picture in found] == [(3, 16, 16)] * 12
    assert all(-1 <= float(picture.min()) < -0.3 < 0.3 < float(picture.max()) <= 1 for picture in found)
    assert "small embedded set" in facts
    assert "[-1, 1] since the model has no processor files" in facts
    assert len({picture.numpy().tobytes() for picture in found}) == 12


def test_no_picture_is_in_two_splits_and_a_seed_gives_the_same(vit):
    keys = {
        split: {picture.numpy().tobytes() for picture in pictures(vit, "stdlib", split, 50, seed=0)[0]}
        for split in ("train", "calibration", "heldout")
    }
    assert [len(found) for found in keys.values()] == [50, 50, 50]
    assert len(set.union(*keys.values())) == 150
    again, _ = pictures(vit, "stdlib", "heldout", 50, seed=0)
    assert {picture.numpy().tobytes() for picture in again} == keys["heldout"]


def test_without_pillow_the_processors_mean_and_deviation_are_kept(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    plain, _ = pictures(vit, "stdlib", "heldout", 2, seed=0)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    vit.config._name_or_path = vit.name_or_path = str(tmp_path)
    found, facts = pictures(vit, "stdlib", "heldout", 2, seed=0)
    mean, deviation = torch.tensor([0.25, 0.5, 0.75]).view(3, 1, 1), torch.tensor([0.5, 0.25, 0.5]).view(3, 1, 1)
    assert torch.allclose(found[0] * deviation + mean, plain[0] / 2 + 0.5, atol=1e-6)
    assert "processor's mean and deviation" in facts
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "processor_config.json")
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": PROCESSOR}))
    assert torch.equal(pictures(vit, "stdlib", "heldout", 2, seed=0)[0][0], found[0])
    (tmp_path / "processor_config.json").write_text('{"image_mean": "grey"}')
    with pytest.raises(UserError, match=r"processor_config\.json' cannot be read"):
        pictures(vit, "stdlib", "heldout", 2, seed=0)


def test_files_need_pillow_and_say_so(vit, folder, monkeypatch):
    monkeypatch.setattr(room, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pillow.*pip install '\.\[vision\]'"):
        pictures(vit, folder, "train", 3, seed=0)


def test_files_go_through_the_models_own_processor(vit, folder, tmp_path, pillow, monkeypatch):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    vit.config._name_or_path = vit.name_or_path = str(tmp_path)
    asked = []

    def processor(images, return_tensors):
        return {"pixel_values": torch.stack([torch.full((3, 16, 16), float(image[0, 0, 0])) for image in images])}

    def from_pretrained(place, trust_remote_code):
        asked.append((place, trust_remote_code))
        return processor

    monkeypatch.setattr("transformers.AutoImageProcessor", types.SimpleNamespace(from_pretrained=from_pretrained))
    parts = {split: pictures(vit, folder, split, 99, seed=0)[0] for split in ("train", "calibration", "heldout")}
    assert asked == [(str(tmp_path), False)] * 3
    found = sorted(int(picture[0, 0, 0]) for part in parts.values() for picture in part)
    assert found == list(range(20))
    assert all(len(part) >= 4 for part in parts.values())


def test_without_a_processor_files_are_resized_to_the_config(vit, folder, pillow):
    found, facts = pictures(vit, folder, "train", 2, seed=0)
    assert found[0].shape == (3, 16, 16)
    assert facts.startswith("20 distinct pictures, at the 16 x 16")
    assert float(found[0].std()) == pytest.approx(0, abs=1e-6)


def test_what_holds_no_pictures_is_refused(vit, tmp_path, pillow):
    (tmp_path / "a.txt").write_text("text")
    for source in (tmp_path, tmp_path / "a.txt", tmp_path / "nowhere"):
        with pytest.raises(UserError, match="this model takes pictures, not text"):
            pictures(vit, str(source), "train", 3, seed=0)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(UserError, match=r"1 distinct picture\(s\) in 1 file\(s\)"):
        pictures(vit, str(tmp_path), "train", 3, seed=0)


def test_real_files(vit, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for index in range(12):
        image.fromarray(draw(index, 20, 24)).save(tmp_path / f"{index}.png")
    assert pictures(vit, str(tmp_path), "train", 3, seed=0)[0][0].shape == (3, 16, 16)
    (tmp_path / "0.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="cannot be read as a picture"):
        [pictures(vit, str(tmp_path), split, 99, seed=0) for split in ("train", "calibration", "heldout")]


def test_sizes_as_configs_state_them(vit):
    assert picture_size(vit) == (3, 16, 16)
    assert patches(vit) == 4
    vit.config.image_size = (32, 64)
    vit.config.num_channels = 1
    assert picture_size(vit) == (1, 32, 64)
    assert pictures(vit, "stdlib", "heldout", 1, seed=0)[0][0].shape == (1, 32, 64)
    vit.config.image_size = 224
    assert picture_size(vit) == (1, 224, 224)
    assert patches(vit) == room.MOST_TOKENS
