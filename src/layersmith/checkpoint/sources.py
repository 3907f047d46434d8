"""Where a model comes from: a name becomes a folder, and the .gguf file in it if that is where the weights are."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from layersmith import pocket
from layersmith.errors import UserError

#: What is fetched of a Hub repository: weights and small files that lie beside them, not other formats of the same.
_FETCHED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja", "LICENSE*", "NOTICE*")
_NOT_FETCHED = ("onnx/*", "openvino/*", "original/*", "coreml/*")


def model_source(name: str) -> tuple[str, str | None]:
    """What to hand to `from_pretrained`, and the .gguf file inside it if that is where the weights are."""
    if name == "pocket":
        return str(pocket.path()), None
    if not name.strip():
        raise UserError("No model was named. Give a folder, a .gguf file, a Hub id, or pocket.")
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        return str(path.parent), path.name
    if path.is_file():
        raise UserError(f"{name!r} is a file. Give the folder that holds the model's config.json, or a .gguf file.")
    if path.is_dir():
        ggufs = sorted(file.name for file in path.glob("*.gguf"))
        if (path / "config.json").is_file():
            return str(path), None
        if (path / "adapter_config.json").is_file():
            raise UserError(
                f"{name!r} holds an adapter without its base model. Load both with PEFT, call merge_and_unload(), save "
                f"the merged model, and give that folder."
            )
        if len(ggufs) == 1:
            return str(path), ggufs[0]
        if ggufs:
            raise UserError(f"{name!r} holds {len(ggufs)} .gguf files ({', '.join(ggufs[:4])}, ...); name one of them.")
        raise UserError(f"{name!r} is not a model folder: it has neither a config.json nor a .gguf file.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"There is no folder {name!r}.")
    return name, None


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
    return f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
