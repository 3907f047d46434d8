"""Activations with Triton kernels on a GPU, beside GELU, their own plain formula, and what memory allows.

    python benchmarks/kernels_gpu.py [--rounds 11]        a CUDA device; writes results/kernels_gpu.csv

GR-KAN's rational activation and PolyNorm's, forward and forward + backward, in float32 and bfloat16, in the hidden
layer of a ViT-Base at batch 8 and at batch 128, which fills the device. All variants of a row are timed interleaved,
REPEAT calls at a time, on inputs of their own; ratios are medians over rounds. `of_limit` is the least time in which
the bytes that must move (forward: x and y; backward: x, dy and dx) could be copied at the speed that a large copy
reaches in the same run, as a share of the time taken: 1.0 cannot be beaten, but sizes that fit into the cache can
exceed it. Small sizes are bound by how fast Python can launch kernels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import torch
import torch.nn.functional as F
from record import save_csv
from torch import Tensor

from layersmith.errors import UserError
from layersmith.ffn.poly_norm import PolyNorm
from layersmith.ffn.shared.rational import Rational
from layersmith.kernels import gpu
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import latency, ratio

SHAPES = ((8, 197, 3072), (128, 197, 3072))
DTYPES = (torch.float32, torch.bfloat16)
REPEAT = 10
#: How many times GELU's time the activation may take, forward and forward + backward (the CPU's goals).
GOALS = {"gr_kan": (3.0, 4.0), "poly_norm": (3.0, 3.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=11)
    rounds = parser.parse_args().rounds
    if not (torch.cuda.is_available() and gpu.loaded()):
        raise UserError("This benchmark needs a CUDA device and Triton.")
    torch.manual_seed(0)
    speed = copy_speed(rounds)
    print(f"a large copy moves {speed / 1e12:.2f} TB/s, bytes read and written")
    rows = []
    for shape in SHAPES:
        for dtype in DTYPES:
            for name, make in (("gr_kan", rational), ("poly_norm", poly_norm)):
                for both in (False, True):
                    rows.append(measured(name, make(shape[-1], dtype), shape, dtype, both, speed, rounds))
                    print(rows[-1], flush=True)
    print(save_csv("kernels_gpu", rows, environment("cuda")))


@dataclass(frozen=True)
class Activation:
    """What is timed: a function of x, and what else its backward pass finds gradients of."""

    run: Callable[[Tensor], Tensor]
    parameters: tuple[Tensor, ...] = ()


def rational(width: int, dtype: torch.dtype) -> Activation:
    part = Rational(width, init="gelu").to("cuda", dtype)
    return Activation(part, tuple(part.parameters()))


def poly_norm(width: int, dtype: torch.dtype) -> Activation:
    part = PolyNorm(2, width).to("cuda", dtype)
    return Activation(part.activation, (part.a,))


def measured(
    name: str, part: Activation, shape: tuple[int, ...], dtype: torch.dtype, both: bool, speed: float, rounds: int
) -> dict[str, object]:
    torch._dynamo.reset()
    compiled = Activation(torch.compile(part.run, dynamic=False), part.parameters)
    steps = {
        "kernel": step(part, shape, dtype, both),
        "plain": without_kernels(step(part, shape, dtype, both)),
        "compiled": without_kernels(step(compiled, shape, dtype, both)),
        "gelu": step(Activation(F.gelu), shape, dtype, both),
    }
    timings = latency(steps, rounds=rounds, warmup=3, device="cuda")
    least = (5 if both else 2) * torch.Size(shape).numel() * dtype.itemsize / speed
    over_gelu, goal = ratio(timings, "kernel", "gelu"), GOALS[name][both]
    return {
        "part": name,
        "shape": "x".join(map(str, shape)),
        "dtype": str(dtype).removeprefix("torch."),
        "pass": "forward + backward" if both else "forward",
        "kernel_ms": timings["kernel"].median / REPEAT * 1e3,
        "over_gelu": over_gelu,
        "goal": goal,
        "reached": over_gelu <= goal,
        "plain_over_gelu": ratio(timings, "plain", "gelu"),
        "compiled_over_gelu": ratio(timings, "compiled", "gelu"),
        "of_limit": least / (timings["kernel"].median / REPEAT),
        "gelu_of_limit": least / (timings["gelu"].median / REPEAT),
        "rounds": rounds,
    }


def step(part: Activation, shape: tuple[int, ...], dtype: torch.dtype, both: bool) -> Callable[[], None]:
    """REPEAT passes over an input of its own."""
    x = torch.randn(shape, device="cuda", dtype=dtype, requires_grad=both)
    grad = torch.randn_like(x)

    def once() -> None:
        with torch.set_grad_enabled(both):
            for _ in range(REPEAT):
                y = part.run(x)
                if both:
                    torch.autograd.grad(y, (x, *part.parameters), grad)

    return once


def without_kernels(once: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        with mock.patch.object(gpu, "loaded", _no):
            once()

    return run


def _no() -> bool:
    return False


def copy_speed(rounds: int) -> float:
    """Bytes per second, read and written, of a copy that no cache holds."""
    source = torch.randn(2**28, device="cuda")
    target = torch.empty_like(source)
    timing = latency({"copy": lambda: target.copy_(source)}, rounds=rounds, warmup=2, device="cuda")["copy"]
    return 2 * source.nbytes / timing.median


if __name__ == "__main__":
    main()
