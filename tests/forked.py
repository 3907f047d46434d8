"""A fresh process in a moment: forked from one that has imported the package and done nothing else.

A run proves what it saved in a process of its own, and rehearses that in another at its start. Each imports torch and
transformers first, for longer than all the rest takes on a tiny model. What is forked here has those imports and shares
nothing else with the tests: no object, no patch, no class that a test registered. Processes that start from nothing
are `tests/checkpoint/test_verify.py`'s, and those of every command line that a test starts.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

#: Longer than anything forked may take, in seconds.
PATIENCE = 240

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["layersmith.checkpoint", "layersmith.checkpoint.reload", "transformers.models.llama.modeling_llama"]
)


def run(function: Callable[..., Any], *arguments: Any) -> tuple[int, str]:
    """(exit status, what was printed) of `function(*arguments)` in a fresh process. What it returns is the status."""
    with tempfile.NamedTemporaryFile() as said:
        made = _SERVER.Process(target=_called, args=(said.name, function, arguments))
        made.start()
        made.join(PATIENCE)
        if made.exitcode is None:
            made.kill()
            pytest.fail(f"{function.__name__} does not end: {said.read().decode(errors='replace')}")
        return made.exitcode, said.read().decode(errors="replace")


def _called(said: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    with open(said, "ab") as file:
        for standard in (1, 2):
            os.dup2(file.fileno(), standard)
    sys.exit(function(*arguments))


def program(path: Path, *arguments: str, folder: Path) -> str:
    """What a Python program prints that ends well, run in a fresh process in the folder."""
    status, said = run(_program, str(path), arguments, str(folder))
    assert status == 0, said
    return said


def _program(path: str, arguments: tuple[str, ...], folder: str) -> None:
    os.chdir(folder)
    sys.argv = [path, *arguments]
    sys.path.insert(0, str(Path(path).parent))
    runpy.run_path(path, run_name="__main__")


@contextmanager
def reloads() -> Iterator[None]:
    """Inside, the proofs of runs reload in forked processes."""
    from layersmith.checkpoint import verify

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(verify, "_run", _reloaded)
        yield


def _reloaded(job: dict[str, Any], scratch: Path) -> str:
    status, said = run(_reload, job, str(scratch))
    return (said.strip().splitlines() or [f"exit status {status}"])[-1]


def _reload(job: dict[str, Any], scratch: str) -> None:
    from transformers import dynamic_module_utils

    from layersmith.checkpoint import reload

    dynamic_module_utils.HF_MODULES_CACHE = scratch  # as its variable has it in a process that starts from nothing
    reload.main(job)
