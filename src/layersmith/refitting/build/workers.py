"""Builds the library in several processes at once: blocks are independent, and the workspace is where they meet.

The run keeps the lock and waits. Each worker loads the model itself, takes every n-th block, and leaves its results in
the workspace as the run itself would have; whatever a worker that failed did not build, the run builds afterwards, and
meets the same error with its full message. A worker's standard input is a pipe held by the run: when the run is
killed the pipe closes, and the worker ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import torch

from layersmith.errors import UserError
from layersmith.refitting.build.block_library import LibrarySettings

if TYPE_CHECKING:
    from layersmith.refitting.context import RunContext


@dataclass(frozen=True)
class Source:
    """What a worker needs to come to the same model and text: the names they were given by, and how text is cut."""

    model: str
    trust_remote_code: bool
    device: str | None
    data: str
    sizes: dict[str, int]
    seed: int


def check_workers(workers: int, model: object) -> None:
    """Raise a UserError unless that many processes can work on this model."""
    if workers > 1 and not isinstance(model, str):
        raise UserError(
            "Several workers need a model given by its name (a folder, a Hub id, a .gguf file, or pocket), because "
            "each loads it for itself. Save the model and pass the folder, or use workers=1."
        )


def build_in_processes(ctx: RunContext, settings: LibrarySettings, workers: int) -> None:
    """Build the candidates of all blocks into the run's workspace with that many processes."""
    blocks = [block.name for block in ctx.anatomy.of_kind("block")]
    shares = [blocks[i::workers] for i in range(min(workers, len(blocks)))]
    threads = max(1, torch.get_num_threads() // len(shares))
    processes = [_start(ctx.source, ctx.workspace.out, share, settings, threads) for share in shares]
    done: list[str] = []
    readers = [threading.Thread(target=_follow, args=(p.stdout, blocks, done, ctx.bar.tell)) for p in processes]
    try:
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    finally:
        for process in processes:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
    for process, share in zip(processes, shares, strict=True):
        unfinished = [name for name in share if name not in done]
        if unfinished:
            ctx.bar.note(
                f"A worker ended with status {process.returncode}; {', '.join(unfinished)} will be built here."
            )


def _start(
    source: Source, out: Path, blocks: list[str], settings: LibrarySettings, threads: int
) -> subprocess.Popen[str]:
    job = {**asdict(source), "out": str(out), "blocks": blocks, "library": asdict(settings), "threads": threads}
    process = subprocess.Popen(
        [sys.executable, "-m", "layersmith.refitting.build.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"},  # the run shows the progress
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    return process


def _follow(lines: IO[str] | None, blocks: list[str], done: list[str], tell: Callable[[str, int, int], None]) -> None:
    for line in lines or ():
        if line.strip() in blocks:  # a model's own code may print too
            done.append(line.strip())
            tell("building the library", len(done), len(blocks))
