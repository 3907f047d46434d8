"""ONNX, through the exporter of transformers (torch.export and torch.onnx), run by onnxruntime.

The graph takes input_ids and attention_mask (what the model takes) of any number of rows and tokens, and gives what the
model gives: logits, or hidden states. It keeps no cache. Weights lie beside it, in FILE.onnx.data.

`int8_dynamic` is expressible: rounding a token is a few operations, and the product MatMulInteger, whole numbers as in
the model itself. Two sums of rounded floats may differ in the last bit, so a value half way between two codes may fall
to either side.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx_ir
import onnxruntime
import torch
from torch import Tensor, nn
from transformers.exporters import OnnxConfig, OnnxExporter

from layersmith.exporting.subject import Subject
from layersmith.kernels.int8 import SMALLEST, TOP
from layersmith.kernels.native import set_aside
from layersmith.linear.int8_dynamic import Int8Dynamic

VERSIONS = ("onnx", "onnxscript", "onnxruntime")


class IntegerProduct(nn.Module):
    """`int8_dynamic` in ONNX's own operations: y = scale step (round(x / step) codes) + b. For the exporter alone."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, part: Int8Dynamic):
        super().__init__()
        self.register_buffer("codes", part.codes.t().contiguous())
        self.register_buffer("scale", part.scale.clone())
        self.register_buffer("bias", None if part.bias is None else part.bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        largest = x.float().abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
        whole = (x.float() * (TOP / largest)).round().to(torch.int8)
        shape = (*x.shape[:-1], self.codes.shape[1])
        product = torch.onnx.ops.symbolic("MatMulInteger", (whole, self.codes), dtype=torch.int32, shape=shape)
        y = product.float() * self.scale * (largest / TOP)
        return y if self.bias is None else y + self.bias


def express(part: Any) -> nn.Module | None:
    """What stands in the graph for a linear map with codes: int8 if that is what it is, else nothing."""
    return IntegerProduct(part) if isinstance(part, Int8Dynamic) else None


def write(subject: Subject, folder: Path, name: str) -> Path:
    """Write NAME and NAME.data into the folder. Raises whatever the exporter does."""
    path = folder / name
    inputs: dict[str, Any] = {**subject.inputs, "use_cache": False}
    config = OnnxConfig(dynamic_shapes=subject.dynamic_shapes())
    with set_aside():
        exported = OnnxExporter().export(subject.model, inputs, config)
    onnx_ir.save(exported.program, path, external_data=f"{name}.data")
    return path


def open_runner(file: Path, threads: int) -> dict[str, Callable[[dict[str, Tensor]], dict[str, Tensor]]]:
    """{label: inputs -> outputs by name}, on the CPU with this many threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    taken = [each.name for each in session.get_inputs()]
    given = [each.name for each in session.get_outputs()]

    def run(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        found = session.run(None, {name: inputs[name].numpy() for name in taken})
        return {name: torch.from_numpy(value) for name, value in zip(given, found, strict=True)}

    return {f"onnxruntime {onnxruntime.__version__}": run}


def alone(module: nn.Module, x: Tensor) -> Callable[[Tensor], Tensor]:
    """A module of one tensor (rows, tokens, width) in the format: a function. Raises whatever the exporter does."""
    auto = torch.export.Dim.AUTO
    with set_aside():
        program = torch.onnx.export(module, (x,), dynamo=True, dynamic_shapes=({0: auto, 1: auto},), verbose=False)
    return lambda value: program(value)[0]  # type: ignore[misc]


def notes(subject: Subject) -> list[str]:
    """Nothing."""
    return []
