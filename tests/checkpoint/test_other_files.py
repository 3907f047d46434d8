"""Files of other programs beside a model are none of its configs."""

from pathlib import Path

from layersmith import checkpoint, pocket


def test_json_of_another_program_does_not_matter(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in pocket.path().iterdir():
        if file.suffix in (".json", ".safetensors"):
            (folder / file.name).symlink_to(file)
    (folder / "data_config.json").write_text("[1, 2]")  # sentence-transformers lists its training data there
    model, _ = checkpoint.load(folder)
    assert model.num_parameters() > 0
