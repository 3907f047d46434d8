"""How long does a task of a race take to draw a batch, and what do its yardsticks score?

    python benchmarks/race_data.py [TASK ...] [--size 64]

Each task with its default settings: milliseconds per batch of training examples (median of at least 20 batches),
seconds until the first one (its import, and what is read or solved once a process), and the yardsticks, which the
page of tasks shows. A task whose data is not there is named, and left out. Prints a table, and writes it to
results/race_data.csv; where tasks are named, their rows alone are new.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from statistics import median
from typing import Any

import torch
from record import RESULTS, save_csv

from layersmith.errors import UserError
from layersmith.measuring.environment import environment
from layersmith.racing.task import Task
from layersmith.racing.tasks import TASKS, build_task, check_task

BATCHES, SECONDS = 20, 0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help="default: all")
    parser.add_argument("--size", type=int, default=64, help="examples in a batch")
    arguments = parser.parse_args()
    for name in arguments.tasks:
        check_task(name)
    print(f"{'task':24}{'one input':>12}{'ms per batch':>14}{'first, s':>10}")
    rows = []
    for name in arguments.tasks or TASKS:
        build_task("parity", {}).batch(torch.Generator(), 1)  # torch's own first calls are no task's
        start = time.perf_counter()
        try:
            task = build_task(name, {})
        except UserError as missing:
            print(f"{name:24}  {missing}")
            continue
        task.batch(torch.Generator().manual_seed(0), arguments.size)
        first = time.perf_counter() - start
        rows.append(_measured(task, arguments.size) | {"first_s": first, "yardsticks": json.dumps(_rounded(task))})
        print(f"{name:24}{rows[-1]['input']:>12}{rows[-1]['ms_per_batch']:>14.3f}{first:>10.2f}", flush=True)
    conditions = environment()
    known = _on_record() if arguments.tasks else {}
    known |= {row["task"]: row | conditions for row in rows}
    print(f"wrote {save_csv('race_data', [known[name] for name in sorted(known)], {})}")


def _on_record() -> dict[str, dict[str, Any]]:
    with (RESULTS / "race_data.csv").open(encoding="utf-8", newline="") as lines:
        return {row["task"]: row for row in csv.DictReader(lines)}


def _measured(task: Task, size: int) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(1)
    times: list[float] = []
    while len(times) < BATCHES or sum(times) < SECONDS:
        start = time.perf_counter()
        task.batch(generator, size)
        times.append(time.perf_counter() - start)
    shape = f"{task.tokens}" + (f"x{task.n_inputs}" if task.reads == "features" else "")
    return {"task": task.name, "size": size, "input": shape, "ms_per_batch": 1e3 * median(times)}


def _rounded(task: Task) -> dict[str, float]:
    return {name: float(f"{value:.4g}") for name, value in task.yardsticks().items()}


if __name__ == "__main__":
    main()
