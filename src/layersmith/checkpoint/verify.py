"""Proves that a saved model is the one that was measured: another process loads it and must compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from layersmith.errors import UserError


@torch.no_grad()
def verify_reload(
    path: str | os.PathLike[str],
    model: PreTrainedModel,
    inputs: Mapping[str, Tensor],
    trust_remote_code: bool = False,
) -> float:
    """Largest absolute difference between outputs of `model` and of the folder at `path`, loaded in a fresh process.

    inputs  tensor arguments of a forward call, e.g. {"input_ids": (B, T)}
    The outputs compared are the first ones: logits, or hidden states of a model without a head. 0.0 is usual: it is
    the same computation. Raises UserError, with the other process's last words, when the folder does not load.
    """
    device = next(model.parameters()).device
    was_training = model.training
    expected = model.eval()(**{name: t.to(device) for name, t in inputs.items()})[0]
    model.train(was_training)
    with tempfile.TemporaryDirectory() as scratch:
        given, got = Path(scratch, "inputs.safetensors"), Path(scratch, "output.safetensors")
        save_file({name: t.detach().cpu().contiguous() for name, t in inputs.items()}, given)
        script = Path(__file__).with_name("reload.py")
        trust = "trust" if trust_remote_code else "no"
        # -P: the script's own folder is not a place to import from.
        command = [sys.executable, "-P", str(script), str(Path(path).resolve()), str(given), str(got)]
        done = subprocess.run(
            [*command, str(device), str(torch.get_num_threads()), trust],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": scratch, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            words = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise UserError(f"The model saved in {str(path)!r} does not load in a fresh process: {words[-1]}")
        output = load_file(got)["output"]
    if output.shape != expected.shape:
        raise UserError(
            f"The model saved in {str(path)!r} gives an output of shape {tuple(output.shape)} in a fresh process, "
            f"where {tuple(expected.shape)} was expected."
        )
    return float((output.float() - expected.cpu().float()).abs().max())
