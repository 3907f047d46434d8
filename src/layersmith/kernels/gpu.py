"""Which tensors the Triton kernels (`*/triton_*.py`) take: contiguous float32, bfloat16 or float16 on a CUDA device.

Triton comes with torch's CUDA builds, or is installed by itself. `LAYERSMITH_NATIVE` chooses as in `native`:
"off" leaves them out, "require" raises a UserError where Triton is missing. They are imported at the first call.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch
from torch import Tensor

from layersmith.errors import UserError

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def serves(*tensors: Tensor) -> bool:
    """True when Triton is there and every tensor is one that its kernels take."""
    return all(t.is_cuda and t.dtype in DTYPES and t.is_contiguous() for t in tensors) and loaded()


@torch.compiler.assume_constant_result
def loaded() -> bool:
    """True when Triton can be imported and has not been switched off."""
    return _load()


@cache
def _load() -> bool:
    mode = os.environ.get("LAYERSMITH_NATIVE", "auto")
    found = importlib.util.find_spec("triton") is not None
    if mode == "require" and not found:
        raise UserError(
            "The kernels for CUDA need Triton (pip install triton). With LAYERSMITH_NATIVE=auto the "
            "slower reference is used instead."
        )
    return found and mode != "off"
