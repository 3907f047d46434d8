"""The compiled CPU kernels: `csrc/*.cpp`, built once on a user's machine by torch's own extension loader.

    if native.serves(x): y = torch.ops.layersmith.some_kernel(x, ...)     else: the reference path in plain PyTorch

They are chosen openly. `LAYERSMITH_NATIVE` in the environment says how:

    auto      the default: use them, building them at the first call that could (a quarter of a minute, once for each
              version of the sources); without a C++ compiler and ninja, say so once and go on with the reference
    off       never: the reference paths
    require   raise a UserError when they cannot be built, instead of going on

Kernels take contiguous float32 on the CPU; anything else is the reference's. Each is tested to equal it, values and all
gradients. The build is kept where torch keeps extensions (`TORCH_EXTENSIONS_DIR`).
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from layersmith.errors import UserError

SOURCES = Path(__file__).parent / "csrc"
MODES = ("auto", "off", "require")
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]

log = logging.getLogger(__name__)


def serves(*tensors: Tensor) -> bool:
    """True when compiled kernels are there and every tensor is one they take."""
    return all(t.dtype == torch.float32 and t.device.type == "cpu" and t.is_contiguous() for t in tensors) and loaded()


@torch.compiler.assume_constant_result
def loaded() -> bool:
    """True when the kernels are registered as `torch.ops.layersmith`; the first call builds them."""
    return _load()


@cache
def _load() -> bool:
    mode = os.environ.get("LAYERSMITH_NATIVE", "auto")
    if mode not in MODES:
        raise UserError(f"LAYERSMITH_NATIVE={mode!r} is unknown. Set it to one of {', '.join(MODES)}.")
    if mode == "off":
        return False
    try:
        _build()
    except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
        reason = _reason(error)
        if mode == "require":
            raise UserError(
                f"The compiled kernels cannot be built: {reason}. They need a C++ compiler and ninja "
                f"(pip install 'layersmith[native]'). With LAYERSMITH_NATIVE=auto the slower reference is used instead."
            ) from error
        log.warning("no compiled kernels, the slower reference paths are used (%s)", reason)
        return False
    return True


def _build() -> None:
    from torch.utils import cpp_extension

    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise OSError(f"there is no C++ compiler {compiler!r}")
    sources = sorted(SOURCES.glob("*.cpp"))
    name = f"layersmith_native_{_digest()}"
    folder = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root()) / name
    folder.mkdir(parents=True, exist_ok=True)
    # ninja installed by pip lies beside the interpreter, which need not be on the PATH.
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, str(Path(sys.executable).parent)])
    try:
        with (folder / "building").open("w") as building:
            # torch's own lock is a file that a killed build leaves behind, and every later one waits for. The system
            # releases this one with the process, so whoever holds it may remove the other.
            fcntl.flock(building, fcntl.LOCK_EX)
            (folder / "lock").unlink(missing_ok=True)
            cpp_extension.load(
                name,
                [str(path) for path in sources],
                extra_cflags=FLAGS,
                extra_ldflags=["-fopenmp"],
                build_directory=str(folder),
                is_python_module=False,
            )
    finally:
        os.environ["PATH"] = before


def _digest() -> str:
    """Names a build by all it depends on. The processor is one of these: a home directory may be shared by several."""
    found = hashlib.sha256(" ".join([torch.__version__, *FLAGS]).encode())
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines = listing.read_text(errors="replace").splitlines()
        found.update("".join(sorted({line for line in lines if line.startswith(("flags", "Features"))})).encode())
    for path in sorted(SOURCES.iterdir()):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:12]


def _reason(error: Exception) -> str:
    """One line: the compiler's first complaint where there is one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "error:" in line), lines[0])
