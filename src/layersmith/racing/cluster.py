"""The jobs of a race on a Ray cluster: each is one task on one core, and its result comes back as JSON.

Nothing but Ray connects the nodes: no folder is shared. A task works in a folder of its own that is deleted afterwards;
the run puts what it sends into the workspace. When a node is lost, Ray gives its tasks to another one, where they begin
anew and, because a trial depends on nothing but its settings, end with the same bits. The nodes need the same versions
of layersmith and torch, which Ray does not check and a task does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import layersmith
from layersmith.errors import UserError
from layersmith.racing.jobs import Job, came_of, is_done, job_from, needed
from layersmith.runs.workspace import Workspace

#: How often a task is given to another node before the run does its job itself.
RETRIES = 5


def share_out(address: str, jobs: list[Job], workspace: Workspace, tell: Callable[[int], None]) -> None:
    """Do the jobs that are not done on the cluster; `tell` hears how many are. Leaves what tasks fail at to the run.

    UserError where no cluster answers at the address, or its versions differ.
    """
    import ray

    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(
                f"No Ray cluster answers at {address!r}: {' '.join(str(error).split())}. Start one with `ray start "
                f"--head`, or leave --ray out to train on this machine."
            ) from error
    try:
        work = ray.remote(num_cpus=1, max_retries=RETRIES)(away)
        open_jobs = [job for job in jobs if not is_done(job, workspace)]
        waiting = [work.remote(asdict(job), needed(job, workspace), _versions()) for job in open_jobs]
        while waiting:
            (ended,), waiting = ray.wait(waiting, num_returns=1)
            try:
                found = ray.get(ended)
            except ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, UserError):
                    raise UserError(str(error.cause)) from error
                continue  # the run does the job itself, and shows its error
            except ray.exceptions.RayError:
                continue  # lost too often
            for name, value in found.items():
                workspace.save_json(name, value)
            tell(len(jobs) - len(waiting))
    finally:
        if mine:
            ray.shutdown()


def away(given: dict[str, Any], read: dict[str, Any], versions: dict[str, str]) -> dict[str, Any]:
    """Do one job on a node, in a folder of its own: what it leaves, name -> JSON.

    given, read   the job as `asdict` wrote it, and what it reads from the workspace
    """
    if versions != _versions():
        raise UserError(
            f"A node of the Ray cluster has other versions than this run ({_versions()} instead of {versions}), so its "
            f"results would be others. Install the same there."
        )
    with tempfile.TemporaryDirectory(prefix="layersmith-") as folder:
        workspace = Workspace(Path(folder) / "run", {"verb": "race"})
        try:
            for name, value in read.items():
                workspace.save_json(name, value)
            return came_of(job_from(given), workspace)
        finally:
            workspace.close()


def _versions() -> dict[str, str]:
    return {"layersmith": layersmith.__version__, "torch": torch.__version__}
