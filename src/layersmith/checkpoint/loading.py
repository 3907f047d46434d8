"""The one loader: a folder, a .gguf file, a Hub id, or "pocket" becomes a model and its tokenizer.

It is also the one place where other libraries read what somebody else wrote: whatever they raise about it becomes one
paragraph here.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from layersmith.checkpoint.companions import is_sentence_encoder
from layersmith.checkpoint.config import LayersmithConfig
from layersmith.checkpoint.dtypes import remember
from layersmith.checkpoint.folder import recover
from layersmith.checkpoint.hf import LayersmithModel
from layersmith.checkpoint.hub import fetched, first_words
from layersmith.checkpoint.peft_adapter import merged
from layersmith.checkpoint.stored import Stored
from layersmith.checkpoint.vetting import check_size, read_config, skeleton, vet
from layersmith.checkpoint.whole import check_cache, check_complete, check_no_block_lost, check_no_part_lost, some
from layersmith.errors import MissingExtra, UserError
from layersmith.kinds import check_kinds
from layersmith.model.config import TransformerConfig
from layersmith.model.transformer import TransformerLM
from layersmith.names import adapter_base, model_source

#: Asked in this order for the class of a .gguf file, whose config names none. (Encoders, too, have a class for causal
#: language models, so that comes late.) What is not in the file is refused afterwards.
_BY_CONFIG = (
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
    "MODEL_FOR_MASKED_LM_MAPPING",
    "MODEL_FOR_CAUSAL_LM_MAPPING",
    "MODEL_MAPPING",
)
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
)


def warn(note: str) -> None:
    """Tell a caller in Python what loading a model loses."""
    warnings.warn(note, stacklevel=3)


def load(
    name: str | os.PathLike[str],
    trust_remote_code: bool = False,
    dtype: torch.dtype | str | None = None,
    device: str | None = None,
    device_map: str | dict[str, Any] | None = None,
    tell: Callable[[str], None] = warn,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """(model in evaluation mode, tokenizer or None when there is none).

    name              a folder with a model (or with nothing but one .gguf file), a .gguf file, a Hub id, "pocket", or a
                      folder with an adapter of PEFT, which is merged into the base model that it names; a tokenizer
                      that lies beside the adapter is taken, else the base model's
    trust_remote_code  run Python code that comes with the model, and parts named "package.module:Class"
    dtype             None: float32, in which methods are exact and CPUs fastest; "auto": as stored; or a torch dtype
    device            where to put it: "cpu" (None does too), "cuda", "cuda:1", "mps"
    device_map        instead of device: handed to transformers ("auto" spreads a large model over devices)
    tell              is called with one line when stored weights are not used; a Python warning by default

    The class is the one the weights were saved from (`architectures` in the config), and its weights are exactly those
    stored. Saved again, the model is stored in the dtypes it was read from. Raises UserError, saying what to do, for a
    name that is neither a folder nor reachable, a folder without a model, quantized weights, and damaged files.
    """
    check_kinds(load, locals())
    if device is not None and device_map is not None:
        raise UserError("Give device (the whole model there) or device_map (spread over several), not both.")
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise UserError(f"There is no dtype {dtype!r}; give float32, bfloat16, float16 or auto.")
    recover(name)
    source, gguf = model_source(os.fspath(name))
    if not gguf and (base := adapter_base(Path(source))) is not None:
        model, tokenizer = load(base, trust_remote_code, dtype, device, device_map, tell)
        with _foreign(source):
            own = _tokenizer(source, trust_remote_code, model.config)
        return merged(model, Path(source)).eval(), tokenizer if own is None else own
    if not Path(source).is_dir():
        source = fetched(source)
    options: dict[str, Any] = {"dtype": torch.float32 if dtype is None else dtype, "device_map": device_map}
    if gguf:
        model, tokenizer, stored = _from_gguf(source, gguf, options)
    else:
        model, tokenizer, stored = _from_folder(source, trust_remote_code, options, tell)
        remember(model, stored)
    model.config._name_or_path = model.name_or_path = source
    model.config.return_dict = True  # with False, many classes of transformers cannot read their own body's outputs
    return (model if device is None else _placed(model, device)).eval(), tokenizer


Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase | None, dict[str, Stored]]


def _from_folder(source: str, trust: bool, options: dict[str, Any], tell: Callable[[str], None]) -> Loaded:
    folder = Path(source)
    plain = read_config(folder / "config.json")
    if not trust and plain.get("auto_map") and plain.get("model_type") not in transformers.CONFIG_MAPPING:
        raise UserError(
            f"The model in {source!r} brings its own Python code, which is not run unasked. If you trust it, pass "
            f"trust_remote_code=True (--trust-remote-code)."
        )
    with _foreign(source):
        stored = vet(folder, plain)
        config = _config(source, plain, trust)
        ours = isinstance(config, LayersmithConfig)
        # The installed package is the code of our checkpoints; what lies in the folder only points to it.
        tokenizer = _tokenizer(source, trust and not ours)
        if ours:
            model = LayersmithModel.from_pretrained(source, config=config, trust_remote_code=trust, **options)
            check_no_part_lost(source, model, stored, [])
            return model, tokenizer, stored
        model_class, own = _model_class(source, config, trust)
        if not own:
            _check_class(source, model_class, config)
            check_size(source, skeleton(model_class, config, stored), stored)
        code = {"trust_remote_code": True} if own else {}
        model, info = model_class.from_pretrained(
            source, config=config, use_safetensors=True, output_loading_info=True, **options, **code
        )
        check_cache(model)
    check_complete(source, model, info)
    unused = sorted(info["unexpected_keys"])
    check_no_part_lost(source, model, stored, unused)
    if unused:
        check_no_block_lost(source, model, unused)
        tell(_lost(source, type(model).__name__, unused))
    return model, tokenizer, stored


def _from_gguf(source: str, file: str, options: dict[str, Any]) -> Loaded:
    """A .gguf file as a plain model: its weights unpacked, and nothing left that says it was quantized."""
    if not transformers.utils.is_gguf_available():
        raise MissingExtra("gguf", "gguf", "Reading a .gguf file")
    path = str(Path(source, file))
    with _foreign(path):
        size = Path(path).stat().st_size
        held = {file: Stored((2**12, size), "U8")}  # how many numbers it holds is not known: not more than this
        config = AutoConfig.from_pretrained(source, gguf_file=file, trust_remote_code=False)
        mappings = [getattr(transformers, name) for name in _BY_CONFIG]
        model_class = next((m[type(config)] for m in mappings if type(config) in m), None)
        if model_class is None:
            raise UserError(f"transformers {transformers.__version__} has no model class for {path!r}.")
        check_size(path, skeleton(model_class, config, held), held)
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file, trust_remote_code=False)
        unpacked = transformers.GgufConfig(dequantize=True)
        model, info = model_class.from_pretrained(
            source, config=config, gguf_file=file, quantization_config=unpacked, output_loading_info=True, **options
        )
    check_complete(path, model, info)
    for owner, name in ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config")):
        owner.__dict__.pop(name, None)
    model.is_quantized = False
    return model, tokenizer, {}


def _check_class(source: str, model_class: Any, config: PreTrainedConfig) -> None:
    """UserError when the class that the config names is built from another kind of config."""
    wanted = model_class.config_class
    if wanted is not None and not any(isinstance(part, wanted) for part in (config, *vars(config).values())):
        raise UserError(
            f"The config.json in {source!r} has the model_type {config.model_type!r}, but the class it names under "
            f"architectures, {model_class.__name__}, is built from a {wanted.__name__}. One of the two is wrong; the "
            f"weights would be put into a model that computes something else."
        )


def _lost(source: str, name: str, unused: list[str]) -> str:
    return (
        f"{len(unused)} tensors stored in {source!r} belong to nothing in {name} and will not be in what is saved: "
        f"{some(unused)}"
    )


@contextmanager
def _foreign(source: str) -> Iterator[None]:
    """Around calls of other libraries: whatever they raise about a folder becomes one paragraph about that folder."""
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except torch.OutOfMemoryError as error:
        raise UserError(f"{source!r} does not fit into memory: {error}") from error
    except BaseException as error:  # a tokenizer written in Rust may panic, which is no Exception
        raise UserError(_explained(source, error)) from error


def _placed(model: PreTrainedModel, device: str) -> PreTrainedModel:
    try:
        return model.to(torch.device(device))  # type: ignore[arg-type]  # transformers' wrapper hides the type
    except (RuntimeError, AssertionError) as error:  # the latter from a torch without that backend
        found = torch.accelerator.current_accelerator(check_available=True)
        raise UserError(
            f"The model cannot be put on the device {device!r}: {' '.join(str(error).split())[:300]} Devices here: cpu"
            f"{f', {found.type}' if found else ''}."
        ) from error


def _config(source: str, plain: dict[str, Any], trust: bool) -> PreTrainedConfig:
    if plain.get("model_type") == LayersmithConfig.model_type:
        return LayersmithConfig.from_pretrained(source)
    return AutoConfig.from_pretrained(source, trust_remote_code=trust)


def _model_class(source: str, config: PreTrainedConfig, trust: bool) -> tuple[Any, bool]:
    """The class the weights were saved from, and whether it is code of the folder."""
    body = transformers.MODEL_MAPPING.get(type(config), None)
    if is_sentence_encoder(Path(source)) and isinstance(body, type):
        return body, False  # sentence-transformers opens the body, whatever class it was saved from
    if isinstance(config, TransformerConfig):
        return TransformerLM, False
    names = config.architectures
    name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    stock = getattr(transformers, name, None) if name.isidentifier() else None
    if isinstance(stock, type) and issubclass(stock, PreTrainedModel):
        return stock, False
    auto_map = getattr(config, "auto_map", None)
    remote = next((auto for auto in auto_map if auto.startswith("AutoModel")), "") if isinstance(auto_map, dict) else ""
    if trust and remote:
        return getattr(transformers, remote), True
    said = f"names the class {name!r}, which transformers {transformers.__version__} does not have"
    raise UserError(
        f"The model in {source!r} cannot be loaded: its config.json "
        f"{said if name else 'does not say which class its weights are of (architectures is missing)'}, so its weights "
        f"could not be told from random ones. "
        + (
            "If the model brings its own code and you trust it, pass trust_remote_code=True (--trust-remote-code)."
            if remote
            else 'Add the class it was saved from, for example "architectures": ["LlamaForCausalLM"].'
        )
    )


def _tokenizer(source: str, trust: bool, config: PreTrainedConfig | None = None) -> PreTrainedTokenizerBase | None:
    """The tokenizer, or None for a folder that has none (image and speech models)."""
    if not any(Path(source, file).is_file() for file in _TOKENIZER_FILES):
        return None
    return AutoTokenizer.from_pretrained(source, trust_remote_code=trust, config=config)


def _explained(source: str, error: BaseException) -> str:
    """One paragraph from whatever another library raised."""
    return (
        f"The model in {source!r} cannot be loaded: {first_words(error)} If the folder was copied, a file may be "
        f"damaged or missing; if the model brings its own code and you trust it, pass trust_remote_code=True "
        f"(--trust-remote-code)."
    )
