"""What a user may ask of `export`: one field an option, refused at once where it cannot be done."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from layersmith.errors import UserError
from layersmith.exporting.targets import TARGETS, check_target
from layersmith.measuring.shape import parse_shape
from layersmith.names import check_data, check_seed

DTYPES = ("auto", "float32", "float16", "bfloat16")


@dataclass(frozen=True)
class ExportConfig:
    """The options of `export`."""

    to: str = field(metadata={"help": "the format: onnx, openvino or gguf"})
    out: Path = field(metadata={"help": "a file ending as the format's do (.onnx, .xml, .gguf), or a new folder"})
    dequantize: bool = field(
        default=False, metadata={"help": "write parts that round, and that the format cannot express, in floats"}
    )
    dtype: str = field(
        default="auto", metadata={"help": "what a GGUF file stores: auto (as the source), float32, float16, bfloat16"}
    )
    data: str = field(
        default="stdlib",
        metadata={"help": "the text both are compared on: stdlib, a file or folder, hub:owner/name"},
    )
    at: str = field(default="prefill=1x512", metadata={"help": "the shape both are timed at"})
    rounds: int = field(default=20, metadata={"help": "rounds of interleaved timing"})
    seed: int = field(default=0, metadata={"help": "of the text and the order of timing"})
    trust_remote_code: bool = field(default=False, metadata={"help": "import the Python code that the model brings"})


def check(config: ExportConfig) -> None:
    """UserError for what could not be exported, before anything is loaded or written."""
    check_target(config.to)
    if config.dtype not in DTYPES:
        raise UserError(f"There is no dtype {config.dtype!r} to store. Choose among {', '.join(DTYPES)}.")
    if config.dtype != "auto" and config.to != "gguf":
        raise UserError(f"{TARGETS[config.to].title} files are written in float32; only GGUF has a choice of dtype.")
    check_data(config.data)
    shape = parse_shape(config.at)
    if shape.phase != "prefill":
        raise UserError(
            f"What is exported reads a whole text at once and keeps no cache, so there is no {shape} to time. Give a "
            f"shape such as prefill=1x{shape.tokens}."
        )
    check_seed(config.seed)
    if config.rounds < 1:
        raise UserError(f"At least one round of timing is needed, not {config.rounds}.")
    _check_free(config)


def main_file(config: ExportConfig) -> Path:
    """The file to open afterwards: `out` itself, or the one of the format's usual name in it."""
    target = TARGETS[config.to]
    return config.out if config.out.suffix == target.suffix else config.out / f"{target.stem}{target.suffix}"


def _check_free(config: ExportConfig) -> None:
    """An export is never written over anything: what stands there may be what somebody runs."""
    out, suffix = config.out, TARGETS[config.to].suffix
    others = {target.suffix for target in TARGETS.values()} - {suffix}
    if out.suffix in others:
        raise UserError(f"{out} does not end as {TARGETS[config.to].title} files do: give a name in {suffix}.")
    if os.path.lexists(out) and not (out.is_dir() and out.suffix != suffix and not any(out.iterdir())):
        raise UserError(f"{out} exists, and nothing is written over. Give another --out, or remove it.")
    place = next(place for place in out.absolute().parents if place.exists())
    if not os.access(place, os.W_OK):
        raise UserError(f"Cannot write to {place}. Give an --out in a folder that can be written to.")
