"""FlashKAT (P046): is the rational activation's cost in training that of adding up its coefficients' gradients badly?

    python benchmarks/claims/flash_kat.py [--rounds 7]

The paper's claim is about GPUs, where the released kernel adds to the coefficients' gradients once for each element: a
Kolmogorov-Arnold Transformer trains 123x slower than a ViT, and 86.5x faster with sums kept in fast memory, with
smaller rounding errors; `flash_kat_gpu.py` measures that. Measured here is what a CPU shows of it: forward and
backward of the activation at 8x197x3072, and of the whole feed-forward 768-3072-768, by autograd of the plain formula
("naive") and by the kernel, both against GELU; and each way's error in the coefficients' gradients against float64.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from record import save_claim

from layersmith.ffn.gr_kan import GRKAN
from layersmith.ffn.mlp import MLP
from layersmith.ffn.shared.rational import Rational
from layersmith.kernels import native
from layersmith.kernels import rational as kernel
from layersmith.measuring.latency import latency, ratio

SHAPE, D, HIDDEN, SEEDS = (8, 197), 768, 3072, (0, 1, 2)


def trained(run: Callable[[Tensor], Tensor], width: int, naive: bool) -> Callable[[], None]:
    """Forward and backward on an input of its own."""
    x = torch.randn(*SHAPE, width, requires_grad=True)
    grad = torch.randn(*SHAPE, width)

    def step() -> None:
        with torch.enable_grad(), plain() if naive else nullcontext():
            run(x).backward(grad)

    return step


def plain():  # type: ignore[no-untyped-def]
    """The kernel is not used inside."""
    return mock.patch.object(kernel, "serves", return_value=False)


def gradient_errors(seed: int) -> dict[str, float]:
    """Relative errors of the gradients of a and b in float32, by both ways, against float64."""
    torch.manual_seed(seed)
    part = Rational(HIDDEN, init="gelu")
    x, grad = torch.randn(*SHAPE, HIDDEN), torch.randn(*SHAPE, HIDDEN)
    exact = slopes(Rational(HIDDEN, init="gelu").double(), x.double(), grad.double())
    found = {"kernel": slopes(part, x, grad)}
    with plain():
        found["naive"] = slopes(part, x, grad)
    return {
        f"{way}_error_{name}": ((got.double() - right).norm() / right.norm()).item()
        for way, tensors in found.items()
        for name, got, right in zip("ab", tensors, exact, strict=True)
    }


def slopes(part: Rational, x: Tensor, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(part(x), (part.a, part.b), grad)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    assert native.loaded(), "without the compiled kernel there is nothing to compare"
    torch.manual_seed(0)

    rational, part, mlp = Rational(HIDDEN, init="gelu"), GRKAN(D, HIDDEN), MLP(D, HIDDEN, act="gelu", bias=True)
    rows: list[dict[str, object]] = []
    for what, width, ours, rival in (
        ("activation 8x197x3072", HIDDEN, rational, F.gelu),
        ("feed-forward 768-3072-768, 8x197 tokens", D, part, mlp),
    ):
        steps = {
            "naive": trained(ours, width, naive=True),
            "kernel": trained(ours, width, naive=False),
            "gelu": trained(rival, width, naive=False),
        }
        timings = latency(steps, rounds=arguments.rounds)
        row: dict[str, object] = {"what": what, "threads": torch.get_num_threads(), "rounds": arguments.rounds}
        row |= {f"{name}_ms": timing.median * 1e3 for name, timing in timings.items()}
        row["naive_over_gelu"] = ratio(timings, "naive", "gelu")
        row["kernel_over_gelu"] = ratio(timings, "kernel", "gelu")
        row["naive_over_kernel"] = ratio(timings, "naive", "kernel")
        rows.append(row)
        print(row)
    errors = []
    for seed in SEEDS:
        errors.append(gradient_errors(seed))
        rows.append({"what": "gradients of a and b against float64", "seed": seed, **errors[-1]})
        print(rows[-1])

    activation, whole = rows[:2]
    compared = [e[f"kernel_error_{name}"] < e[f"naive_error_{name}"] for e in errors for name in "ab"]
    worst = {way: max(max(e[f"{way}_error_a"], e[f"{way}_error_b"]) for e in errors) for way in ("kernel", "naive")}
    save_claim(
        "flash_kat",
        "gr_kan",
        "P046",
        "KAT trains 123x slower than a ViT; with FlashKAT's backward pass it trains 86.5x faster, with smaller "
        "rounding errors in the coefficients' gradients (GPU)",
        "partly" if all(compared) and kernel_wins(activation) else "did not hold",
        f"On a CPU with {torch.get_num_threads()} thread(s), forward and backward: the activation takes "
        f"{activation['naive_over_gelu']:.1f}x GELU's time by autograd of the formula and "
        f"{activation['kernel_over_gelu']:.2f}x by the kernel; the whole feed-forward 768-3072-768 on 8x197 tokens "
        f"takes {whole['naive_over_gelu']:.2f}x and {whole['kernel_over_gelu']:.2f}x the GELU MLP's. Largest relative "
        f"error of the coefficients' gradients over {len(SEEDS)} seeds: {worst['naive']:.1e} by autograd, "
        f"{worst['kernel']:.1e} by the kernel, which is the smaller one in {sum(compared)} of {len(compared)} cases. "
        "The claim's own factors are a GPU's.",
        rows,
    )


def kernel_wins(row: dict[str, object]) -> bool:
    return row["naive_over_kernel"] > 2  # type: ignore[operator]


if __name__ == "__main__":
    main()
