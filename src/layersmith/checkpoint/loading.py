"""The one loader: a folder, a .gguf file, a Hub id, or "pocket" becomes a model and its tokenizer."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from layersmith import pocket
from layersmith.checkpoint.folder import recover
from layersmith.checkpoint.hf import LayersmithConfig, LayersmithModel
from layersmith.errors import MissingExtra, UserError

#: Asked in this order for a config that does not say which class its weights are of. (Encoders, too, have a class for
#: causal language models, so that comes late.)
_BY_CONFIG = (
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING", "AutoModelForSeq2SeqLM"),
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING", "AutoModelForSpeechSeq2Seq"),
    ("MODEL_FOR_MASKED_LM_MAPPING", "AutoModelForMaskedLM"),
    ("MODEL_FOR_CAUSAL_LM_MAPPING", "AutoModelForCausalLM"),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING", "AutoModelForImageClassification"),
    ("MODEL_MAPPING", "AutoModel"),
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "spiece.model")


def load(
    name: str | os.PathLike[str],
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """(model in evaluation mode, tokenizer or None when there is none).

    name              a folder with a model (or with nothing but one .gguf file), a .gguf file, a Hub id, or "pocket"
    trust_remote_code  run Python code that comes with the model, and parts named "package.module:Class"
    dtype             None: float32, in which methods are exact and CPUs fastest; "auto": as stored; or a torch dtype
    device            where to put it: "cpu" (None does too), "cuda", "cuda:1", "mps"
    device_map        instead of device: handed to transformers ("auto" spreads a large model over devices)

    The class is the one the weights were saved from (`architectures` in the config). Raises UserError, saying what
    to do, for a name that is neither a folder nor reachable, a folder without a model, and damaged files.
    """
    if device is not None and device_map is not None:
        raise UserError("Give device (the whole model there) or device_map (spread over several), not both.")
    recover(name)
    source, gguf = _source(os.fspath(name))
    options: dict[str, Any] = {"gguf_file": gguf} if gguf else {}
    if gguf and not transformers.utils.is_gguf_available():
        raise MissingExtra("gguf", "gguf", "Reading a .gguf file")
    try:
        config = _config(source, options, trust_remote_code)
        tokenizer = _tokenizer(source, options, trust_remote_code)
        model = _model(source, config, trust_remote_code)(
            source, config=config, dtype=torch.float32 if dtype is None else dtype, device_map=device_map, **options
        )
    except UserError:
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(f"{source!r} does not fit into memory: {error}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, struct.error) as error:
        raise UserError(_explained(source, error)) from error
    return (model if device is None else _placed(model, device)).eval(), tokenizer


def _placed(model: PreTrainedModel, device: str) -> PreTrainedModel:
    try:
        return model.to(torch.device(device))  # type: ignore[arg-type]  # transformers' wrapper hides the type
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without that backend
        found = torch.accelerator.current_accelerator(check_available=True)
        raise UserError(
            f"The model cannot be put on the device {device!r}: {' '.join(str(error).split())[:300]} Devices here: cpu"
            f"{f', {found.type}' if found else ''}."
        ) from error


def _source(name: str) -> tuple[str, str | None]:
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
            _check_json(path / "config.json")
            return str(path), None
        if len(ggufs) == 1:
            return str(path), ggufs[0]
        if ggufs:
            raise UserError(f"{name!r} holds {len(ggufs)} .gguf files ({', '.join(ggufs[:4])}, ...); name one of them.")
        raise UserError(f"{name!r} is not a model folder: it has neither a config.json nor a .gguf file.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise UserError(f"There is no folder {name!r}.")
    return name, None


def _check_json(file: Path) -> None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} cannot be loaded: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{str(file)!r} cannot be loaded: it holds a {type(content).__name__}, not a config.")


def _config(source: str, options: dict[str, Any], trust: bool) -> PreTrainedConfig:
    plain, _ = PreTrainedConfig.get_config_dict(source, **options)
    if plain.get("model_type") == LayersmithConfig.model_type:
        # The installed package is the code of these checkpoints; what lies in the folder only points to it.
        return LayersmithConfig.from_pretrained(source)
    return AutoConfig.from_pretrained(source, trust_remote_code=trust, **options)


def _model(source: str, config: PreTrainedConfig, trust: bool) -> Any:
    """The `from_pretrained` of the class the weights were saved from, with what it needs to know about trust."""
    if isinstance(config, LayersmithConfig):
        return lambda *args, **kwargs: LayersmithModel.from_pretrained(*args, trust_remote_code=trust, **kwargs)
    name = next(iter(config.architectures or []), "")
    stock = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(stock, type) and issubclass(stock, PreTrainedModel):
        return stock.from_pretrained
    remote = next((auto for auto in getattr(config, "auto_map", None) or {} if auto.startswith("AutoModel")), None)
    if trust and remote is not None:
        return lambda *args, **kwargs: getattr(transformers, remote).from_pretrained(
            *args, trust_remote_code=True, **kwargs
        )
    for mapping, auto in _BY_CONFIG:
        if type(config) in getattr(transformers, mapping):
            return getattr(transformers, auto).from_pretrained
    raise UserError(f"transformers {transformers.__version__} has no model class for {source!r} ({name or 'unnamed'}).")


def _tokenizer(source: str, options: dict[str, Any], trust: bool) -> PreTrainedTokenizerBase | None:
    """The tokenizer, or None for a folder that has none (image and speech models)."""
    folder = Path(source)
    if folder.is_dir() and not options and not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=trust, **options)
    except (OSError, ValueError, KeyError):
        if folder.is_dir():
            raise
        return None  # a Hub repository without a tokenizer: whether it holds a model shows next


def _explained(source: str, error: Exception) -> str:
    """One paragraph from whatever transformers raised."""
    first = " ".join(str(error).split())[:400]
    if Path(source).is_dir():
        return (
            f"The model in {source!r} cannot be loaded: {first} If the folder was copied, a file may be damaged or "
            f"missing; if the model brings its own code and you trust "
            f"it, pass trust_remote_code=True (--trust-remote-code)."
        )
    return (
        f"{source!r} is neither a folder here nor a model that can be reached on the Hub: {first} Check the spelling "
        f"and the network connection, or give the folder of a downloaded model."
    )
