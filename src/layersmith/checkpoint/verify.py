"""Proves that a saved model is the one that was measured: another process loads it and must compute the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from layersmith.checkpoint.dtypes import is_as_stored, stored_dtypes
from layersmith.checkpoint.reload import first_tensor
from layersmith.errors import UserError

#: Largest difference allowed, relative to the largest output: the same sums, in another order; and where weights are
#: rounded on their way to the disk, or the work itself is done in half precision.
TOLERANCE, HALF_TOLERANCE = 1e-4, 5e-2


@dataclass(frozen=True)
class Reloaded:
    """What came out of one folder. problem: "" when it is the model that was saved, else one sentence."""

    difference: float
    problem: str


def verify_reload(
    path: str | os.PathLike[str],
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    trust_remote_code: bool = False,
) -> float:
    """Largest absolute difference between outputs of `model` and of the folder at `path`, loaded in a fresh process.

    inputs             tensor arguments of a forward call, e.g. {"input_ids": (B, T)}
    trust_remote_code  allow parts named "package.module:Class"; Python files in the folder are not run in any case

    The outputs compared are the first ones: logits, or hidden states of a model without a head. 0.0 is usual: it is
    the same computation. Buffers are compared, too, those that are computed and not stored included. Raises UserError
    when the folder does not load, yields NaN, or differs beyond the bound of the dtype.
    """
    [found] = compare_reloaded([path], model, inputs, trust_remote_code)
    if found.problem:
        raise UserError(f"The model saved in {str(path)!r} is not the one that was measured: {found.problem}")
    return found.difference


@torch.no_grad()
def compare_reloaded(
    paths: Sequence[str | os.PathLike[str]],
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    trust_remote_code: bool = False,
) -> list[Reloaded]:
    """As `verify_reload`, for several folders in one fresh process, and without raising for what does not hold."""
    device = next(model.parameters()).device
    was_training = model.training
    expected = first_tensor(model.eval()(**{name: t.to(device) for name, t in inputs.items()})).cpu()
    model.train(was_training)
    exact = model.dtype.itemsize >= 4 and is_as_stored(model, stored_dtypes(model))
    with tempfile.TemporaryDirectory() as scratch:
        given = Path(scratch, "inputs.safetensors")
        save_file({name: t.detach().cpu().contiguous() for name, t in inputs.items()}, given)
        outputs = [str(Path(scratch, f"output-{i}.safetensors")) for i in range(len(paths))]
        job = {
            "folders": [str(Path(path).resolve()) for path in paths],
            "inputs": str(given),
            "outputs": outputs,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "dtype": str(model.dtype).removeprefix("torch."),
            "trust_parts": trust_remote_code,
        }
        last_words = _run(job, Path(scratch))
        return [_compared(Path(output), last_words, expected, model, exact) for output in outputs]


def _run(job: dict[str, Any], scratch: Path) -> str:
    """The fresh process; returns the last line it wrote to its standard error."""
    file = scratch / "job.json"
    file.write_text(json.dumps(job))
    # -P: the script's own folder is not a place to import from.
    command = [sys.executable, "-P", str(Path(__file__).with_name("reload.py")), str(file)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(scratch), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]


def _compared(file: Path, last_words: str, expected: Tensor, model: PreTrainedModel, exact: bool) -> Reloaded:
    if not file.exists():
        error = file.with_name(f"{file.name}.error")
        said = error.read_text() if error.exists() else last_words
        return Reloaded(float("nan"), f"it does not load in a fresh process: {said}")
    found = load_file(file)
    output = found.pop("output")
    if output.shape != expected.shape:
        return Reloaded(
            float("nan"),
            f"its output has the shape {tuple(output.shape)} in a fresh process, where {tuple(expected.shape)} was "
            f"expected.",
        )
    difference = float((output.double() - expected.double()).abs().max()) if output.numel() else 0.0
    bound = (TOLERANCE if exact else HALF_TOLERANCE) * float(expected.double().abs().max() if output.numel() else 0)
    if not difference <= bound:  # NaN is not
        return Reloaded(
            difference, f"its output differs by {difference:.3g} in a fresh process, where {bound:.3g} is the bound."
        )
    wrong = _differing_buffer(found, model, exact)
    return Reloaded(difference, f"its buffer {wrong} has other values in a fresh process." if wrong else "")


def _differing_buffer(found: dict[str, Tensor], model: PreTrainedModel, exact: bool) -> str:
    """The first buffer that does not come back as it is; "" if all do.

    Where blocks were dropped the stock form numbers the rest anew, so buffers are compared if their names are the same.
    """
    own = {name.removeprefix("base."): buffer.detach().cpu() for name, buffer in model.named_buffers()}
    read = {name.removeprefix("buffer.").removeprefix("base."): buffer for name, buffer in found.items()}
    if own.keys() != read.keys():
        return ""
    tolerance = 1e-5 if exact else HALF_TOLERANCE
    for name, buffer in own.items():
        again = read[name]
        if again.shape != buffer.shape:
            continue  # tables that grow with use
        if not torch.allclose(again.double(), buffer.double(), rtol=tolerance, atol=tolerance, equal_nan=False):
            return name
    return ""
