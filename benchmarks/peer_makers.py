"""The peers of `peers.py`: what a user can have of the same model with other tools, each at its best setting we know.

A runner has `version`, `outputs(ids) -> (tokens, vocabulary)`, or (tokens, width) of an encoder, `prefill(tokens)` and
`decode(tokens)`, which return a `Step`; it raises where it lacks a phase. Converted files are used again from a folder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.measuring.latency import Step, model_step
from layersmith.measuring.shape import Shape


class Torch:
    """A model of torch, in whatever form."""

    def __init__(self, model: nn.Module, package: str = "torch"):
        self.model, self.version = model.eval(), f"{package} {version(package)}"

    def outputs(self, ids: list[int]) -> Tensor:
        found = self.model(torch.tensor([ids]), use_cache=False)
        return (found.logits if "logits" in found else found.last_hidden_state)[0].float()

    def prefill(self, tokens: int) -> Step:
        return model_step(self.model, Shape("prefill", 1, tokens))

    def decode(self, tokens: int) -> Step:
        return model_step(self.model, Shape("decode", 1, tokens))


class Graph:
    """A file that `layersmith export` wrote, run by its runtime: whole texts only."""

    def __init__(self, run: Callable[[dict[str, Tensor]], dict[str, Any]], label: str, words: int):
        self.run, self.version, self.words = run, label, words

    def outputs(self, ids: list[int]) -> Tensor:
        return torch.as_tensor(next(iter(self.run(_inputs(ids)).values())))[0].float()

    def prefill(self, tokens: int) -> Step:
        inputs = _inputs([(7 * i) % self.words for i in range(tokens)])
        return Step(lambda: self.run(inputs))

    def decode(self, tokens: int) -> Step:
        raise NotImplementedError("the exported graph keeps no cache")


class LlamaCpp:
    """A .gguf file in llama.cpp, driven below its sampling: one call computes all logits that are asked for."""

    def __init__(self, file: Path, threads: int):
        import llama_cpp

        options = {"n_ctx": 1024, "n_batch": 1024, "n_ubatch": 512, "logits_all": True, "verbose": False}
        self.llama = llama_cpp.Llama(str(file), n_threads=threads, n_threads_batch=threads, **options)
        self.version = f"llama-cpp-python {llama_cpp.__version__}"

    def outputs(self, ids: list[int]) -> Tensor:
        self.llama.reset()
        self.llama._ctx.kv_cache_clear()
        self.llama.eval(ids)
        return torch.from_numpy(self.llama.scores[: len(ids)].copy())

    def prefill(self, tokens: int) -> Step:
        ids = [(7 * i) % self.llama.n_vocab() for i in range(tokens)]
        return Step(lambda: self._feed(ids, 0), before=self.llama._ctx.kv_cache_clear)

    def decode(self, tokens: int) -> Step:
        ids = [(7 * i) % self.llama.n_vocab() for i in range(tokens)]
        self.llama._ctx.kv_cache_clear()
        self._feed(ids, 0)
        forget = self.llama._ctx.kv_cache_seq_rm
        return Step(lambda: self._feed(ids[:1], tokens), before=lambda: forget(-1, tokens, -1))

    def _feed(self, ids: list[int], seen: int) -> None:
        self.llama._batch.set_batch(batch=ids, n_past=seen, logits_all=True)
        self.llama._ctx.decode(self.llama._batch)


# -- torch --------------------------------------------------------------------------------------------------------


def load(name: str) -> nn.Module:
    import layersmith

    return layersmith.load(name)[0].requires_grad_(False)


def original(name: str, work: Path, threads: int) -> Torch:
    return Torch(load(name))


def bf16(name: str, work: Path, threads: int) -> Torch:
    return Torch(load(name).to(torch.bfloat16))


class FiveLines(nn.Module):
    """int8 weights a channel, int8 activations a token, torch._int_mm: what anybody can write in five lines."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.scale = linear.weight.detach().float().abs().amax(1).clamp(min=1e-30) / 127
        self.codes = (linear.weight.detach().float() / self.scale[:, None]).round().to(torch.int8).t()
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        step = rows.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        y = torch._int_mm((rows / step).round().to(torch.int8), self.codes).float() * self.scale * step
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], -1).to(x.dtype)


def five_lines(name: str, work: Path, threads: int) -> Torch:
    model = load(name)
    for path, module in [(p, m) for p, m in model.named_modules() if isinstance(m, nn.Linear)]:
        model.set_submodule(path, FiveLines(module))
    return Torch(model)


def quantize_dynamic(name: str, work: Path, threads: int) -> Torch:
    return Torch(torch.ao.quantization.quantize_dynamic(load(name), {nn.Linear}, dtype=torch.qint8))


def torchao_w8a8(name: str, work: Path, threads: int) -> Torch:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

    model = load(name)
    quantize_(model, Int8DynamicActivationInt8WeightConfig())
    return Torch(model, "torchao")


def torchao_weights(name: str, work: Path, threads: int) -> Torch:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    model = load(name).to(torch.bfloat16)
    quantize_(model, Int8WeightOnlyConfig())
    return Torch(model, "torchao")


def compiled(make: Callable[[str, Path, int], Torch]) -> Callable[[str, Path, int], Torch]:
    def made(name: str, work: Path, threads: int) -> Torch:
        model = copy.copy(make(name, work, threads).model)
        model.forward = torch.compile(model.forward)
        return Torch(model)

    return made


# -- other runtimes -----------------------------------------------------------------------------------------------


def onnx_file(name: str, work: Path) -> Path:
    import layersmith

    file = work / "fp32" / "model.onnx"
    if not file.exists():
        layersmith.export(name, to="onnx", out=file, at="prefill=1x8", rounds=1)
    return file


def onnxruntime_float(name: str, work: Path, threads: int) -> Graph:
    return _onnx(onnx_file(name, work), threads, name)


def onnxruntime_int8(name: str, work: Path, threads: int) -> Graph:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    file = work / "int8" / "model.onnx"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        whole, tidy = file.with_name("whole.onnx"), file.with_name("tidy.onnx")
        onnx.save_model(onnx.load(onnx_file(name, work)), whole)  # its tools want the weights in the same file
        quant_pre_process(str(whole), str(tidy), skip_symbolic_shape=True)
        quantize_dynamic(str(tidy), str(file), per_channel=True, weight_type=QuantType.QInt8)
    return _onnx(file, threads, name)


def _onnx(file: Path, threads: int, name: str) -> Graph:
    from layersmith.exporting.targets.onnx import open_runner

    [(label, run)] = open_runner(file, threads).items()
    return Graph(run, label, _words(name))


def openvino_file(name: str, work: Path) -> Path:
    import layersmith

    file = work / "openvino" / "model.xml"
    if not file.exists():
        layersmith.export(name, to="openvino", out=file, at="prefill=1x8", rounds=1)
    return file


def openvino_default(name: str, work: Path, threads: int) -> Graph:
    import openvino

    return _openvino(openvino.Core().read_model(openvino_file(name, work)), threads, name)


def openvino_nncf(name: str, work: Path, threads: int) -> Graph:
    import nncf
    import openvino

    model = nncf.compress_weights(openvino.Core().read_model(openvino_file(name, work)))
    return _openvino(model, threads, name, f", nncf {version('nncf')}")


def _openvino(model: Any, threads: int, name: str, also: str = "") -> Graph:
    import openvino

    # The file asks for float32; without that the runtime chooses by itself, which is its default.
    if "runtime_options" in model.rt_info:
        del model.rt_info["runtime_options"]
    compiled_model = openvino.Core().compile_model(model, "CPU", {"INFERENCE_NUM_THREADS": threads})
    precision = compiled_model.get_property("INFERENCE_PRECISION_HINT").get_type_name()

    def run(inputs: dict[str, Tensor]) -> dict[str, Any]:
        fed = {port: inputs[next(iter(port.get_names() & inputs.keys()))].numpy() for port in compiled_model.inputs}
        return {"outputs": compiled_model(fed)[compiled_model.outputs[0]]}

    return Graph(run, f"openvino {version('openvino')}, {precision}{also}", _words(name))


def llama_cpp(kind: str) -> Callable[[str, Path, int], LlamaCpp]:
    def made(name: str, work: Path, threads: int) -> LlamaCpp:
        import llama_cpp as lib

        import layersmith

        plain = work / "gguf" / "F32.gguf"
        if not plain.exists():
            layersmith.export(name, to="gguf", out=plain, at="prefill=1x8", rounds=1, dtype="float32")
        file = plain.with_name(f"{kind}.gguf")
        if not file.exists():
            settings = lib.llama_model_quantize_default_params()
            settings.ftype, settings.nthread = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{kind}"), threads
            if lib.llama_model_quantize(str(plain).encode(), str(file).encode(), settings):
                raise RuntimeError(f"llama.cpp could not write {kind}")
        return LlamaCpp(file, threads)

    return made


def ours(name: str, work: Path, threads: int) -> Torch:
    import layersmith

    runner = Torch(load(name))
    runner.version = f"layersmith {layersmith.__version__}"  # of the files that run, whatever was installed
    return runner


PEERS: dict[str, Callable[[str, Path, int], Any]] = {
    "original": original,
    "model.bfloat16()": bf16,
    "five lines: int8 by torch._int_mm": five_lines,
    "torch quantize_dynamic": quantize_dynamic,
    "torchao w8a8 on fp32": torchao_w8a8,
    "torchao int8 weights on bf16": torchao_weights,
    "torch.compile fp32": compiled(original),
    "torch.compile bf16": compiled(bf16),
    "torch.compile five lines": compiled(five_lines),
    "onnxruntime fp32": onnxruntime_float,
    "onnxruntime dynamic int8": onnxruntime_int8,
    "OpenVINO, its defaults": openvino_default,
    "OpenVINO + NNCF int8 weights": openvino_nncf,
    "llama.cpp F32": llama_cpp("F32"),
    "llama.cpp BF16": llama_cpp("BF16"),
    "llama.cpp Q8_0": llama_cpp("Q8_0"),
    "llama.cpp Q4_0": llama_cpp("Q4_0"),
    "llama.cpp Q4_1": llama_cpp("Q4_1"),
}
COMPILED = ("torch.compile fp32", "torch.compile bf16", "torch.compile five lines")


def make(peer: str, model: str, work: Path, threads: int) -> Any:
    """The runner of a peer; "layersmith FOLDER" is one of our results."""
    if peer.startswith("layersmith "):
        return ours(peer.removeprefix("layersmith "), work, threads)
    return PEERS[peer](model, work, threads)


def _inputs(ids: list[int]) -> dict[str, Tensor]:
    row = torch.tensor([ids])
    return {"input_ids": row, "attention_mask": torch.ones_like(row), "token_type_ids": torch.zeros_like(row)}


def _words(name: str) -> int:
    from layersmith.data.windows import vocabulary

    return vocabulary(load(name)) or 1
