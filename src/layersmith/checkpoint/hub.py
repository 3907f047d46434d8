"""A model of the Hub as a folder here: what is fetched of its repository, and what is said when it cannot be."""

from __future__ import annotations

import textwrap
from pathlib import Path

from huggingface_hub import snapshot_download

from layersmith.errors import UserError

#: What is fetched of a Hub repository: weights and small files that lie beside them, not other formats of the same.
_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "LICENSE*", "NOTICE*")
_NOT_FETCHED = ("onnx/*", "openvino/*", "original/*", "coreml/*")


def fetched(name: str) -> str:
    """The folder of a Hub repository in the download cache."""
    try:
        folder = snapshot_download(name, allow_patterns=list(_FETCHED), ignore_patterns=list(_NOT_FETCHED))
    except Exception as error:
        raise UserError(
            f"{name!r} is neither a folder here nor a model that can be reached on the Hub: {first_words(error)} Check "
            f"the spelling and the network connection, or give the folder of a downloaded model."
        ) from error
    if not Path(folder, "config.json").is_file():
        raise UserError(f"{name!r} on the Hub has no config.json. A .gguf file has to be downloaded and named itself.")
    return folder


def first_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 400, placeholder=' …')}"
