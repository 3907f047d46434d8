"""Does each compiled CPU kernel earn its place against torch.compile of the reference?

    layersmith compile && python benchmarks/kernels_cpu.py [--rounds 20] [--only TEXT]

Each row is a part at a shape its kernel is for. Three steps are interleaved in one run: the kernel, the plain
reference, and the reference compiled by torch.compile (its default mode, before the clock starts). `against_compile`
is the median over rounds of kernel / compiled reference within a round: below 1 the kernel is faster. Inputs and
weights are warm. Writes results/kernels_cpu.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from record import save_csv
from torch import Tensor, nn

from layersmith import catalogue
from layersmith.kernels import native
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import Step, latency, ratio

SERVES = native.serves
D, HIDDEN = 576, 1536
#: kernel -> (part, shape of its input, whether the backward pass is measured too)
CASES: list[tuple[str, dict[str, Any], tuple[int, ...], bool]] = [
    ("rational", {"name": "gr_kan", "d_model": D, "d_hidden": HIDDEN}, (1, 512, HIDDEN), True),
    ("poly", {"name": "poly_norm", "d_model": D, "d_hidden": HIDDEN}, (1, 512, HIDDEN), True),
    ("poly", {"name": "poly_relu", "d_model": D, "d_hidden": HIDDEN}, (1, 512, HIDDEN), True),
    ("dyt", {"name": "dyt", "d_model": D}, (1, 512, D), True),
    ("masked", {"name": "mglu", "d_model": D, "d_hidden": HIDDEN, "packed": True}, (1, 1, D), False),
    ("chosen", {"name": "topk_glu", "d_model": D, "d_hidden": HIDDEN, "k": HIDDEN // 8}, (1, 1, D), False),
    ("chosen", {"name": "topk_mlp", "d_model": D, "d_hidden": HIDDEN, "k": HIDDEN // 8}, (1, 1, D), False),
    ("tree", {"name": "fff", "d_model": D, "depth": 10}, (1, 64, D), False),
    ("gather: rows_dot", {"name": "peer", "d_model": D, "n_keys": 128}, (1, 64, D), True),
    ("gather: best_pairs", {"name": "pkm", "d_model": D, "n_keys": 128}, (1, 64, D), True),
]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    if not native.loaded():
        raise SystemExit("The kernels have not been built here: run `layersmith compile` first.")
    conditions, rows = environment(), []
    for case in CASES:
        if arguments.only in case[0]:
            found = measured(*case, rounds=arguments.rounds)
            print(*found, sep="\n", flush=True)
            rows += found
            save_csv("kernels_cpu", rows, conditions)


def measured(
    kernel: str, spec: dict[str, Any], shape: tuple[int, ...], trains: bool, rounds: int
) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    part = _what_the_kernel_computes(catalogue.build(spec).eval())
    x = torch.randn(shape)
    rows = []
    for backward in (False, True) if trains else (False,):
        run = _with_gradients if backward else _forward
        torch._dynamo.reset()
        compiled = torch.compile(part)
        steps = {
            "kernel": _step(run, part, x, served=True),
            "reference": _step(run, part, x, served=False),
            "compiled": _step(run, compiled, x, served=False),
        }
        timings = latency(steps, rounds=rounds, warmup=5, min_seconds=2e-3)
        rows.append(
            {
                "kernel": kernel,
                "part": spec["name"],
                "shape": "x".join(map(str, shape)),
                "pass": "forward and backward" if backward else "forward",
                **{f"{name}_us": round(timings[name].median * 1e6, 1) for name in steps},
                "against_reference": round(ratio(timings, "kernel", "reference"), 3),
                "against_compile": round(ratio(timings, "kernel", "compiled"), 3),
            }
        )
    return rows


def _what_the_kernel_computes(part: nn.Module) -> nn.Module:
    """The activation alone where the kernel is one: matrix products around it would hide what it gains."""
    if hasattr(part, "act_hidden"):
        return part.act_hidden
    if hasattr(part, "activation"):
        part.forward = part.activation  # type: ignore[method-assign]
    return part


def _step(run: Callable[[nn.Module, Tensor], None], part: nn.Module, x: Tensor, served: bool) -> Step:
    """Outside the clock: whether kernels serve. Compiled code is guarded by that, so it must not change under it."""
    real = SERVES

    def before() -> None:
        native.serves = real if served else _never  # type: ignore[assignment]

    return Step(run=lambda: run(part, x), before=before)


def _never(*tensors: Tensor) -> bool:
    return False


@torch.no_grad()
def _forward(part: nn.Module, x: Tensor) -> None:
    part(x)


@torch.enable_grad()
def _with_gradients(part: nn.Module, x: Tensor) -> None:
    part(x.detach().requires_grad_()).sum().backward()


if __name__ == "__main__":
    main()
