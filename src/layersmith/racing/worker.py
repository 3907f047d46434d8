"""One worker process of a race: takes jobs that nobody holds, and leaves what came of them in the workspace.

python -m layersmith.racing.worker        started by `jobs.finish`
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from layersmith.runs.processes import serve


def work(given: dict[str, Any]) -> Iterator[str]:
    """Do jobs of the list; yields a name for each that is done. What is heavy is imported when the list has come."""
    from layersmith.racing.jobs import do, job_from, open_jobs
    from layersmith.runs.workspace import Workspace

    workspace = Workspace.joined(Path(given["out"]))
    for job in open_jobs([job_from(each) for each in given["jobs"]], workspace):
        do(job, workspace)
        yield job.entrant.name


if __name__ == "__main__":
    serve(work)
