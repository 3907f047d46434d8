"""Does each compiled CPU kernel earn its place against torch.compile of its reference?

    layersmith compile && python benchmarks/kernels_cpu.py [--rounds 20] [--only TEXT [--keep]]

Each row is an operation of `src/layersmith/kernels` at a shape it is for (`kernel_cases.py`). Three steps take turns in
one run: the kernel, as parts call it; the plain reference; and the reference compiled by torch.compile (its default
mode, for these shapes alone, before the clock starts). `against_compile` is the median over rounds of kernel / compiled
reference within a round: below 1 the kernel is faster. Inputs and weights are warm. Writes results/kernels_cpu.csv.

Two minutes, nearly all of it in compilers; a second run finds most of what they made in torch's cache.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

import torch
from kernel_cases import Case, Function, cases
from record import RESULTS, save_csv
from torch import Tensor

from layersmith.kernels import native
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import Step, latency, ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="", help="operations whose names contain this; nothing is written then")
    parser.add_argument("--keep", action="store_true", help="with --only: write these, and keep the rows of all others")
    arguments = parser.parse_args()
    if not native.loaded():
        raise SystemExit("The kernels have not been built here: run `layersmith compile` first.")
    conditions, rows = environment(), []
    for case in cases():
        if arguments.only in case.operators:
            found = measured(case, arguments.rounds)
            print(*found, sep="\n", flush=True)
            rows += found
    if not arguments.only:
        print(save_csv("kernels_cpu", rows, conditions))
    elif arguments.keep:
        made = {key(row) for row in rows}
        with (RESULTS / "kernels_cpu.csv").open(newline="", encoding="utf-8") as file:
            others = [row for row in csv.DictReader(file) if key(row) not in made]
        print(save_csv("kernels_cpu", others + [{**row, **conditions} for row in rows], {}))


def key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["operator"], row["at"], row["pass"]


def measured(case: Case, rounds: int) -> list[dict[str, Any]]:
    """A row for the forward pass, and one for both passes of a kernel that has gradients."""
    found = []
    for backward in (False, True) if case.trained else (False,):
        torch._dynamo.reset()
        compiled = torch.compile(case.reference, dynamic=False)
        steps = {
            "kernel": step(case, case.kernel, backward, served=True),
            "reference": step(case, case.reference, backward, served=False),
            "compiled": step(case, compiled, backward, served=False),
        }
        timings = latency(steps, rounds=rounds, warmup=5, min_seconds=2e-3)
        forward, *both = case.operators.split()
        found.append(
            {
                "operator": " ".join((forward, *both) if backward else (forward,)),
                "at": case.at,
                "pass": "forward and backward" if backward else "forward",
                **{f"{name}_us": round(timings[name].median * 1e6, 1) for name in steps},
                "against_reference": round(ratio(timings, "kernel", "reference"), 3),
                "against_compile": round(ratio(timings, "kernel", "compiled"), 3),
            }
        )
    return found


def step(case: Case, function: Function, backward: bool, served: bool) -> Step:
    """Outside the clock: whether kernels serve. Compiled code is guarded by that, so it must not change under it."""

    def before() -> None:
        native.serves = _SERVES if served else _never  # type: ignore[assignment]

    return Step(run=lambda: run(case, function, backward), before=before)


def run(case: Case, function: Function, backward: bool) -> tuple[Tensor, ...]:
    """The outputs, or the gradients of their sum."""
    with torch.set_grad_enabled(backward):
        outputs = function(*case.inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return torch.autograd.grad(sum(output.sum() for output in outputs), case.trained) if backward else outputs


_SERVES = native.serves


def _never(*tensors: Tensor) -> bool:
    return False


if __name__ == "__main__":
    main()
