"""One worker process of the library stage: builds the candidates of some blocks into the workspace of a run.

`workers.build_in_processes` starts it as `python -m layersmith.refitting.build.worker`, writes one line of JSON, the
job, to its standard input, and reads the names of finished blocks. It loads the model by name, reads the same text as
the run, and finds the activations in the workspace. It ends when its standard input is closed, so it never outlives the
run that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from layersmith import checkpoint
from layersmith.anatomy import Replay, find_sites
from layersmith.refitting.build.block_library import LibrarySettings, build_block
from layersmith.refitting.calibrate.activations import Activations
from layersmith.refitting.calibrate.batches import Sizes, prepare
from layersmith.refitting.calibrate.taylor import stored_scores
from layersmith.runs.workspace import Workspace


def main() -> None:
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_the_run, daemon=True).start()
    for name in build(job):
        print(name, flush=True)  # noqa: T201 - what the run that started this process reads


def build(job: dict[str, Any]) -> Iterator[str]:
    """Build the job's blocks, one after the other; yields the name of each when it is done."""
    torch.set_num_threads(job["threads"])
    model, tokenizer = checkpoint.load(job["model"], trust_remote_code=job["trust_remote_code"], device=job["device"])
    model.eval().requires_grad_(False)
    batches = prepare(model, tokenizer, job["data"], Sizes(**job["sizes"]), job["seed"])
    workspace = Workspace.joined(Path(job["out"]))
    anatomy = find_sites(model)
    activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
    settings = LibrarySettings(**job["library"])
    statistics = stored_scores(workspace)
    for name in job["blocks"]:
        build_block(anatomy.site(name), activations, workspace, settings, statistics)
        yield name


def _end_with_the_run() -> None:
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
