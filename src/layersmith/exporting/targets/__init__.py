"""The formats a model can be exported to: an explicit table; each module is imported when its format is asked for.

A target's module has

    express(part)                  the module that stands in the graph for a linear map that rounds, or None
    write(subject, folder, name)   write the files into the folder and return the one to open
    open_runner(file, threads)     {label: a function from a model's inputs to its outputs}, one per way to run the file
    alone(module, x)               a module of one tensor in the format: a function; it shows which edit is to blame
    notes(subject)                 what a user of the file has to know
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from layersmith.errors import MissingExtra, UserError, suggest


@dataclass(frozen=True)
class Target:
    """title: as told; packages: what has to be installed, and the extra that does it; suffix, stem: of its file."""

    title: str
    packages: tuple[str, ...]
    extra: str
    suffix: str
    stem: str


TARGETS = {
    "onnx": Target("ONNX", ("onnx", "onnxscript", "onnxruntime"), "onnx", ".onnx", "model"),
    "openvino": Target("OpenVINO", ("openvino",), "openvino", ".xml", "openvino_model"),
    "gguf": Target("GGUF", ("gguf",), "gguf", ".gguf", "model"),
}


def check_target(name: str) -> Target:
    """The target of that name. UserError for a name there is none of, MissingExtra where its library is missing."""
    if name not in TARGETS:
        raise UserError(f"There is no format {name!r} to export to. {suggest(name, list(TARGETS))}")
    target = TARGETS[name]
    for package in target.packages:
        if find_spec(package) is None:
            raise MissingExtra(package, target.extra, f"Exporting to {target.title}")
    return target


def implementation(name: str) -> Any:
    """The module of a target, whose library is imported with it."""
    return importlib.import_module(f"layersmith.exporting.targets.{name}")
