"""GGUF, the format of llama.cpp, by the gguf package: for models of the stock Llama shape.

Weights are written in the dtype the model is stored in (float32, float16 or bfloat16), one-dimensional ones in float32.
llama.cpp pairs neighbouring channels when it turns queries and keys, transformers channels half a head apart, so the
rows of these two matrices are put in the other order. The file is proved by reading it with transformers again, and
timed in llama.cpp where llama-cpp-python is installed.

A tokenizer is carried over as it stands where the source is a .gguf file; otherwise it must be byte-level BPE. How text
is split before merging is known to llama.cpp by name; a splitting that it has no name for is written as its default,
and the result says so: such a file is to be given token ids.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor, nn

from layersmith.errors import UserError
from layersmith.exporting.subject import Subject
from layersmith.names import model_source

VERSIONS = ("gguf",)
#: llama.cpp's names for the ways of splitting that are told by a tokenizer.json.
_DIGITS = {"type": "Digits", "individual_digits": True}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
#: Stored dtype -> how a matrix is stored in the file, and the file's own name for that.
_FORMATS = {
    torch.float32: (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    torch.float16: (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    torch.bfloat16: (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
}


def express(part: Any) -> nn.Module | None:
    """Nothing: llama.cpp's formats have scales of blocks of 32 or 256 weights, ours of rows or tokens."""
    return None


def write(subject: Subject, folder: Path, name: str) -> Path:
    """Write NAME into the folder. UserError for a model or a tokenizer that the format has no place for."""
    _check_stock(subject)
    config, path = subject.model.config, folder / name
    kind, file_type = _FORMATS.get(subject.dtype, _FORMATS[torch.float32])
    writer = gguf.GGUFWriter(path, "llama")
    _write_sizes(writer, config)
    writer.add_file_type(file_type)
    _write_tokenizer(writer, subject)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    embedding = subject.model.get_input_embeddings().weight
    for key, tensor in subject.model.state_dict().items():
        if key == "lm_head.weight" and tensor.data_ptr() == embedding.data_ptr():
            continue  # the embedding serves for both
        array = _turned(key, tensor.float().numpy(), config)
        stored = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if stored is None:
            raise UserError(
                f"llama.cpp's Llama has no place for the tensor {key}, so this model is not written to GGUF."
            )
        used = kind if array.ndim > 1 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(stored, gguf.quants.quantize(array, used), raw_dtype=used)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def open_runner(file: Path, threads: int) -> dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """{label: inputs -> outputs by name}: transformers' own reading of the file, and llama.cpp where it is there."""
    from layersmith.checkpoint import load

    model, _ = load(file)
    model.requires_grad_(False)
    runners: dict[str, Any] = {"transformers, reading it back": lambda inputs: {"logits": model(**inputs).logits}}
    if find_spec("llama_cpp") is not None:
        label, run = _llama_cpp(file, threads)
        runners[label] = run
    return runners


def alone(module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """Never: the format holds whole architectures."""
    raise NotImplementedError("llama.cpp runs architectures that it knows, and no other module")


def notes(subject: Subject) -> list[str]:
    """What a user of the file has to know."""
    told = []
    if _gguf_source(subject) is None and _splitting(subject.tokenizer) == "default":
        told.append(
            "llama.cpp has no name for the way this tokenizer splits text, so it will split it in its default way and "
            "find other tokens: give it token ids."
        )
    if find_spec("llama_cpp") is None:
        told.append("llama-cpp-python is not installed, so the file was not timed in llama.cpp.")
    return told


def _check_stock(subject: Subject) -> None:
    model = subject.model
    if subject.edits:
        edit = subject.edits[0]
        raise UserError(
            f"GGUF cannot express the edit {edit.spec['name']!r} at {edit.path}: llama.cpp runs architectures that it "
            f"knows, and this is none of them. The nearest it can hold is a result in the stock architecture: dropped "
            f"blocks, and one feed-forward width for all blocks (`--methods drop,width`). ONNX can express more."
        )
    if type(model).__name__ != "LlamaForCausalLM":
        raise UserError(
            f"layersmith writes GGUF for models of the stock Llama shape, and this is a {type(model).__name__}. "
            f"llama.cpp's own convert_hf_to_gguf.py knows more of them."
        )
    rope = model.config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        raise UserError(f"This model turns its positions by {rope['rope_type']!r}, which is not written to GGUF here.")
    if subject.tokenizer is None:
        raise UserError("A GGUF file holds its tokenizer, and the model came without one. Put its files beside it.")


def _write_sizes(writer: Any, config: Any) -> None:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_name(Path(str(config._name_or_path)).name or "model")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)


def _turned(key: str, array: np.ndarray, config: Any) -> np.ndarray:
    """Rows of a query or key map with the channels of a pair side by side instead of half a head apart."""
    if ".q_proj." not in key and ".k_proj." not in key:
        return array
    heads = config.num_attention_heads if ".q_proj." in key else config.num_key_value_heads
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(array.shape)


# -- the tokenizer ------------------------------------------------------------------------------------------------


def _gguf_source(subject: Subject) -> Path | None:
    """The .gguf file the model came from, if it did."""
    folder, file = model_source(subject.source) if os.path.exists(os.path.expanduser(subject.source)) else ("", None)
    return Path(folder, file) if file else None


def _write_tokenizer(writer: Any, subject: Subject) -> None:
    source = _gguf_source(subject)
    if source is None:
        _write_bpe(writer, subject.tokenizer, subject.model.config.vocab_size)
        return
    for key, found in gguf.GGUFReader(source).fields.items():
        if key.startswith("tokenizer."):
            inner = found.types[-1] if found.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, found.contents(), found.types[0], sub_type=inner)


def _write_bpe(writer: Any, tokenizer: Any, vocabulary: int) -> None:
    written = _as_json(tokenizer)
    model = written["model"]
    splitting = _splitting(tokenizer)
    if model.get("type") != "BPE" or model.get("byte_fallback") or not _is_byte_level(written):
        raise UserError(
            f"GGUF is written here for byte-level BPE tokenizers, and this is another kind ({model.get('type')}). "
            f"llama.cpp's own convert_hf_to_gguf.py knows more of them."
        )
    added = {each["id"]: each for each in written["added_tokens"]}
    tokens = {index: token for token, index in model["vocab"].items()} | {i: a["content"] for i, a in added.items()}
    kinds = gguf.TokenType
    types = [
        kinds.UNUSED
        if i not in tokens
        else (kinds.CONTROL if added[i]["special"] else kinds.USER_DEFINED)
        if i in added
        else kinds.NORMAL
        for i in range(vocabulary)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list([tokens.get(i, f"[PAD{i}]") for i in range(vocabulary)])
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    for name, add in (
        ("bos_token_id", writer.add_bos_token_id),
        ("eos_token_id", writer.add_eos_token_id),
        ("unk_token_id", writer.add_unk_token_id),
        ("pad_token_id", writer.add_pad_token_id),
    ):
        if getattr(tokenizer, name, None) is not None:
            add(getattr(tokenizer, name))
    writer.add_add_bos_token(tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id])
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _splitting(tokenizer: Any) -> str:
    """llama.cpp's name for how the tokenizer splits text before merging; "default" where it has none."""
    steps = _as_json(tokenizer).get("pre_tokenizer") or {}
    steps = steps.get("pretokenizers", [steps])
    if len(steps) == 1 and steps[0].get("type") == "ByteLevel" and steps[0].get("use_regex", True):
        return "gpt-2"
    if len(steps) == 2 and steps[1].get("type") == "ByteLevel":
        if steps[0] == _DIGITS and steps[1].get("use_regex", True):
            return "smollm"
        if steps[0].get("pattern") == {"Regex": _LLAMA3} and not steps[1].get("use_regex", True):
            return "llama-bpe"
    return "default"


def _is_byte_level(written: dict[str, Any]) -> bool:
    steps = written.get("pre_tokenizer") or {}
    return any(step.get("type") == "ByteLevel" for step in steps.get("pretokenizers", [steps]))


def _as_json(tokenizer: Any) -> dict[str, Any]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError("GGUF needs a tokenizer with a tokenizer.json, and this one is written in Python.")
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def _llama_cpp(file: Path, threads: int) -> tuple[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    import llama_cpp

    length = 1024
    model = llama_cpp.Llama(
        str(file),
        n_ctx=length,
        n_batch=length,
        n_ubatch=512,
        n_threads=threads,
        n_threads_batch=threads,
        logits_all=True,
        verbose=False,
    )

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = inputs["input_ids"]
        if len(rows) != 1:
            raise UserError("llama.cpp is run with one text at a time here.")
        model.reset()
        model.eval(rows[0].tolist())
        return {"logits": torch.from_numpy(model.scores[: rows.shape[1]].copy())[None]}

    return f"llama.cpp (llama-cpp-python {llama_cpp.__version__})", run
