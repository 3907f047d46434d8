"""OpenVINO IR, through the exporter of transformers (torch.export and openvino.convert_model), run by OpenVINO.

The graph takes input_ids and attention_mask (what the model takes) of any number of rows and tokens, and gives what the
model gives: logits, or hidden states. It keeps no cache. Weights lie beside it, in the .bin of the same name.

Nothing that rounds is expressible: OpenVINO chooses scales of activations by itself, in groups. So those parts are
written in floats or not at all. The file asks for float32 sums, in which it is proved; where the processor has bfloat16
instructions, OpenVINO's own choice for a model that asks for nothing, the same file is run that way too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import Tensor, nn
from transformers.exporters import OpenVINOConfig, OpenVINOExporter

from layersmith.exporting.subject import Subject
from layersmith.kernels.native import set_aside
from layersmith.measuring.environment import instruction_sets

VERSIONS = ("openvino",)


def express(part: Any) -> nn.Module | None:
    """Nothing: see above."""
    return None


def write(subject: Subject, folder: Path, name: str) -> Path:
    """Write NAME and its .bin into the folder. Raises whatever the exporter does."""
    path = folder / name
    inputs: dict[str, Any] = {**subject.inputs, "use_cache": False}
    config = OpenVINOConfig(dynamic_shapes=subject.dynamic_shapes(), stateful=False)
    with set_aside():
        exported = OpenVINOExporter().export(subject.model, inputs, config)
    openvino.save_model(exported.program, path, compress_to_fp16=False)
    return path


def open_runner(file: Path, threads: int) -> dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """{label: inputs -> outputs by name}, on the CPU with this many threads: in float32, then as the machine likes."""
    label = f"openvino {openvino.__version__.partition('-')[0]}"
    runners = {f"{label}, float32": _runner(file, threads, "f32")}
    if {"avx512_bf16", "amx_bf16"} & set(instruction_sets()):
        runners[f"{label}, bfloat16"] = _runner(file, threads, "bf16")
    return runners


def _runner(file: Path, threads: int, precision: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(str(file), "CPU", settings)

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        fed = {port: inputs[next(iter(port.get_names() & inputs.keys()))].numpy() for port in compiled.inputs}
        found = compiled(fed)
        return {port.get_any_name(): torch.from_numpy(found[port]) for port in compiled.outputs}

    return run


def alone(module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """A module of one tensor (rows, tokens, width) in the format: a function. Raises whatever the exporter does."""
    auto = torch.export.Dim.AUTO
    with set_aside():
        program = torch.export.export(module, (x,), dynamic_shapes=({0: auto, 1: auto},), strict=False)
        settings = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = openvino.Core().compile_model(openvino.convert_model(program), "CPU", settings)
    return lambda value: torch.from_numpy(compiled([value.numpy()])[0])


def notes(subject: Subject) -> list[str]:
    """Nothing."""
    return []
