"""`push_to_hub` of a result uploads a model that loads again; the Hub's interface is replaced by a folder."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers as tf
from huggingface_hub.errors import LocalEntryNotFoundError

from layersmith.checkpoint import load, save
from tests.anatomy.families import BY_NAME
from tests.checkpoint.edited import edited, output

LLAMA = BY_NAME["llama"].inputs()


class Hub:
    """Holds what is committed to it in a folder."""

    def __init__(self, folder: Path):
        self.folder, self.messages = folder, []

    def create_repo(self, repo_id, **options):
        return SimpleNamespace(repo_id=repo_id)

    def create_commit(self, repo_id, operations, commit_message, **options):
        self.messages.append((repo_id, commit_message))
        for each in operations:
            target = self.folder / each.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(each.path_or_fileobj, target)
        return "done"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    from transformers.utils import hub as module

    made = Hub(tmp_path / "hub")

    def none_yet(*arguments, **options):
        raise LocalEntryNotFoundError("there is no card in a new repository")

    monkeypatch.setattr(module, "hf_api", lambda: made)
    monkeypatch.setattr(module.ModelCard, "load", none_yet)
    return made


def test_what_is_pushed_loads_as_the_model(hub, tmp_path):
    _, model, edits = edited(
        ffn={"name": "glu", "d_hidden": 16}, layers_1_attn={"name": "softmax_attention", "n_heads": 2}
    )
    save(model, edits, tmp_path / "model")
    result = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    result.push_to_hub("somebody/smaller", commit_message="a result")
    assert hub.messages == [("somebody/smaller", "a result")]
    names = {file.name for file in hub.folder.iterdir()}
    assert {"config.json", "model.safetensors", "modeling_layersmith.py", "README.md"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert torch.equal(output(load(hub.folder)[0], LLAMA), output(result, LLAMA))
