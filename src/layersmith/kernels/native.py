"""The compiled CPU kernels: each operation's folder holds its C++ source; one command builds them all, once a machine.

    layersmith compile                      builds them (a quarter of a minute; needs a C++ compiler and ninja)
    if native.serves(x): y = torch.ops.layersmith.some_kernel(x, ...)     else: the reference path in plain PyTorch

Nothing is built behind a user's back. `LAYERSMITH_NATIVE` in the environment says what is used:

    auto      the default: the kernels where they have been built, else the reference, which is said once
    off       never: the reference paths
    require   raise a UserError where they have not been built

Kernels take contiguous float32 on the CPU; anything else is the reference's. Each is tested to equal it, values and all
gradients. The build is kept where torch keeps extensions (`TORCH_EXTENSIONS_DIR`); other sources, another torch or
another processor make another build.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from filelock import FileLock
from torch import Tensor

from layersmith.errors import UserError

FOLDER = Path(__file__).parent
MODES = ("auto", "off", "require")
FLAGS = ["-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"]

#: A file beside a finished build.
BUILT = "built"

log = logging.getLogger(__name__)

_aside = False


def serves(*tensors: Tensor) -> bool:
    """True when compiled kernels are there and every tensor is one they take."""
    for t in tensors:  # asked several times in every layer for every token, so in few steps
        if t.dtype is not torch.float32 or not t.is_cpu or not t.is_contiguous():
            return False
    return loaded()


def inferring() -> bool:
    """True when what runs now is neither differentiated nor compiled nor under autocast: what some kernels ask for."""
    return not (torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"))


@torch.compiler.assume_constant_result
def loaded() -> bool:
    """True when the kernels are registered as `torch.ops.layersmith`; the first call loads a finished build."""
    return not _aside and _load()


@contextmanager
def set_aside() -> Iterator[None]:
    """Inside, every operation takes its reference path, which other runtimes' exporters can read."""
    global _aside
    before, _aside = _aside, True
    try:
        yield
    finally:
        _aside = before


@cache
def _load() -> bool:
    mode = os.environ.get("LAYERSMITH_NATIVE", "auto")
    if mode not in MODES:
        raise UserError(f"LAYERSMITH_NATIVE={mode!r} is unknown. Set it to one of {', '.join(MODES)}.")
    if mode == "off":
        return False
    if (_place() / BUILT).is_file():
        torch.ops.load_library(str(_place() / _library()))
        return True
    if mode == "require":
        raise UserError(
            "The compiled kernels have not been built on this machine. Run `layersmith compile` once, or set "
            "LAYERSMITH_NATIVE=auto to use the slower reference."
        )
    log.warning("the kernels have not been compiled here, so slower reference paths are used: run `layersmith compile`")
    return False


def build() -> Path:
    """Compile the kernels for this machine and return where they are; at once when that has been done before.

    Raises UserError, with the compiler's first complaint, when they cannot be built.
    """
    place = _place()
    if not (place / BUILT).is_file():
        try:
            _compile(place)
        except (OSError, RuntimeError, ImportError, subprocess.SubprocessError) as error:
            raise UserError(
                f"The kernels cannot be built: {_reason(error)}. They need a C++ compiler and ninja (pip install "
                f"ninja). Without them everything works by the slower reference paths."
            ) from error
        _load.cache_clear()
    return place / _library()


def _compile(place: Path) -> None:
    from torch.utils import cpp_extension

    compiler = cpp_extension.get_cxx_compiler()
    if shutil.which(shlex.split(compiler)[0]) is None:
        raise OSError(f"there is no C++ compiler {compiler!r}")
    place.mkdir(parents=True, exist_ok=True)
    # ninja installed by pip lies beside the interpreter, which need not be on the PATH.
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = os.pathsep.join([before, str(Path(sys.executable).parent)])
    try:
        with FileLock(place / "building"):
            # torch's own lock is a file that a killed build leaves behind, and every later one waits for. The system
            # releases this one with the process, so whoever holds it may remove the other.
            (place / "lock").unlink(missing_ok=True)
            if (place / BUILT).is_file():  # by another process, meanwhile
                return
            cpp_extension.load(
                place.name,
                [str(path) for path in sorted(FOLDER.glob("*/*.cpp"))],
                extra_cflags=FLAGS,
                extra_ldflags=["-fopenmp"],
                extra_include_paths=[str(FOLDER / "shared")],
                build_directory=str(place),
                is_python_module=False,
            )
            (place / BUILT).touch()  # last: a build that was killed is never taken for a whole one
    finally:
        os.environ["PATH"] = before


def _place() -> Path:
    from torch.utils import cpp_extension

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
    return root / f"layersmith_native_{_digest()}"


def _library() -> str:
    return f"{_place().name}.so"


def _digest() -> str:
    """Names a build by all it depends on. The processor is one of these: a home directory may be shared by several."""
    found = hashlib.sha256(" ".join([torch.__version__, *FLAGS]).encode())
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        lines = listing.read_text(errors="replace").splitlines()
        found.update("".join(sorted({line for line in lines if line.startswith(("flags", "Features"))})).encode())
    for path in sorted([*FOLDER.glob("*/*.cpp"), *FOLDER.glob("*/*.h")]):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()[:12]


def _reason(error: Exception) -> str:
    """One line: the compiler's first complaint where there is one."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return next((line for line in lines if "error:" in line), lines[0])
