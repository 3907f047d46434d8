"""Builds the library in several processes at once: blocks are independent, and the workspace is where they meet.

The run keeps the lock and waits. Each worker loads the model itself, takes every n-th block, and leaves its results in
the workspace as the run itself would have; whatever a worker that failed did not build, the run builds afterwards, and
meets the same error with its full message. How they are started, heard and ended: `runs/processes.py`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import torch

from layersmith.errors import UserError
from layersmith.refitting.build.block_library import LibrarySettings
from layersmith.runs.processes import share_out

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
    common = {**asdict(ctx.source), "out": str(ctx.workspace.out), "library": asdict(settings), "threads": threads}
    jobs = [{**common, "blocks": share} for share in shares]
    workers_ended = share_out(
        "layersmith.refitting.build.worker",
        jobs,
        {"OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"},  # the run shows the progress
        lambda done: ctx.bar.tell("building the library", done, len(blocks)),
    )
    for worker, share in zip(workers_ended, shares, strict=True):
        unfinished = [name for name in share if name not in worker.done]
        if unfinished:
            ctx.bar.note(f"A worker {worker.ending()}; {', '.join(unfinished)} will be built here.")
