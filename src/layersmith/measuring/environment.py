"""Where a number was measured: versions, processor, threads, device, date and the commit of the checkout.

Written beside every result, because a latency without its machine is not a fact.
"""

from __future__ import annotations

import platform
import resource
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import layersmith
from layersmith.kernels import native

#: As Linux names them; x86 first, then ARM.
INSTRUCTION_SETS = (
    *("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8"),
    *("asimd", "asimddp", "bf16", "i8mm", "sve"),
)


def environment(device: torch.device | str = "cpu") -> dict[str, Any]:
    """A JSON-serialisable description of this machine and of the software that measures on `device`."""
    return {
        "layersmith": layersmith.__version__,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "instruction_sets": instruction_sets(),
        "kernels": "compiled" if native.loaded() else "reference",
        "threads": torch.get_num_threads(),
        "device": device_name(torch.device(device)),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
    }


def peak_memory() -> int:
    """Bytes this process held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def cpu_name() -> str:
    """The processor's model name, as the operating system tells it."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instruction_sets() -> list[str]:
    """The vector and matrix instructions of this processor that decide which number format is fast on it."""
    listing = Path("/proc/cpuinfo")
    text = listing.read_text(errors="replace") if listing.is_file() else ""
    line = next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")
    return [name for name in INSTRUCTION_SETS if name in line.split()]


def device_name(device: torch.device) -> str:
    """ "cpu", or the accelerator's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def commit() -> str | None:
    """The commit of the source checkout layersmith runs from; None for an installed package.

    "+modified" is added when tracked files differ from that commit: the number then belongs to no commit.
    """
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+modified" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")


def _git(root: Path, *arguments: str) -> str | None:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
