"""One worker process of the library stage: builds the candidates of some blocks into the workspace of a run.

    python -m layersmith.refitting.build.worker        started by `workers.build_in_processes`

It loads the model by name, reads the same text as the run, and finds the activations in the workspace. What is heavy is
imported when the job has come, so that the process gives signs of life from its first second on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layersmith.runs.processes import serve


def build(job: dict[str, Any]) -> Iterator[str]:
    """Build the job's blocks, one after the other; yields the name of each when it is done."""
    import torch

    from layersmith import checkpoint
    from layersmith.anatomy import Replay, find_sites
    from layersmith.refitting.build.block_library import LibrarySettings, build_block
    from layersmith.refitting.calibrate.activations import Activations
    from layersmith.refitting.calibrate.batches import Sizes, prepare
    from layersmith.refitting.calibrate.taylor import stored_scores
    from layersmith.refitting.identity import check_same_files
    from layersmith.runs.workspace import Workspace

    torch.set_num_threads(job["threads"])
    model, tokenizer = checkpoint.load(job["model"], trust_remote_code=job["trust_remote_code"], device=job["device"])
    model.eval().requires_grad_(False)
    batches = prepare(model, tokenizer, job["data"], Sizes(**job["sizes"]), job["seed"])
    workspace = Workspace.joined(Path(job["out"]))
    check_same_files(workspace, model, tokenizer, batches)
    anatomy = find_sites(model)
    activations = Activations(Replay(model, anatomy), anatomy, batches, workspace)
    settings = LibrarySettings(**job["library"])
    statistics = stored_scores(workspace)
    for name in job["blocks"]:
        build_block(anatomy.site(name), activations, workspace, settings, statistics)
        yield name


if __name__ == "__main__":
    serve(build)
