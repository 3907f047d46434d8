"""Are the catalogue's feed-forward parts as fast on a CPU as what they replace, and how far from the machine's limits?

    python benchmarks/ffn_cpu.py [--rounds 20] [--threads 1 2] [--only TEXT]

Every row sets a part of ours beside a dense rival in one run, interleaved; `ratio` is the median over rounds of the
ratio within a round, in the sense of its goal ("3x slower at most", "4x faster at least").

Inputs differ from repetition to repetition. Weights are cold: each repetition takes the next of several equal copies
of both modules, as many as make 256 MiB of the smaller side, so that none is found in a cache, as in a model that has
run through all its other layers since. Element-wise rows rotate over three inputs of 19 MB.

The limits are measured in the same run, for each number of threads: bytes per second of reading 512 MiB, and FLOP per
second of a 2048 x 2048 matrix product. `ours_floor_ms` and `other_floor_ms` are what the bytes and FLOPs that must move
would take at these, the larger of the two: weights read once (only the chosen ones, each once per token, at most all),
inputs and outputs once, 2 FLOPs for a multiply-add. Writes results/ffn_cpu.csv.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from record import save_csv
from torch import Tensor

from layersmith import catalogue
from layersmith.errors import UserError
from layersmith.kernels import native
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import Step, latency
from layersmith.measuring.latency import ratio as ratio_of

COLD = 256 * 2**20
FLOAT = 4  # bytes


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: what is timed, and the bytes and FLOPs that it cannot do without."""

    step: Step
    bytes: float
    flops: float


@dataclass(frozen=True)
class Case:
    """goal: at most this many times slower (`faster` False), or at least this many times faster."""

    name: str
    setting: str
    ours: Side
    other: Side
    goal: float
    faster: bool


# Element-wise: bytes and FLOPs are those of the activation alone. An erf counts 20 FLOPs, which is about what it takes.
ELEMENTS = (8, 197, 3072)
GELU = (24, 50)  # FLOPs for one element: forward, forward and backward
RATIONAL = (22, 85)
POLY_NORM = (18, 65)
POLY_RELU = (8, 30)


def rotate(items: list[Any], run: Callable[[Any], object], before: Callable[[Any], object] = lambda item: None) -> Step:
    """A step that takes the next item each time it is called."""
    endless = itertools.cycle(items)
    current: list[Any] = [None]

    def advance() -> None:
        current[0] = next(endless)
        before(current[0])

    return Step(run=lambda: run(current[0]), before=advance)


def elementwise(act: Callable[[Tensor], Tensor], parameters: list[Tensor], flops: tuple[int, int], slope: bool) -> Side:
    inputs = [torch.randn(ELEMENTS).requires_grad_(slope) for _ in range(3)]
    grad = torch.randn(ELEMENTS)

    def clear(x: Tensor) -> None:
        for tensor in (x, *parameters):
            tensor.grad = None

    def run(x: Tensor) -> None:
        with torch.set_grad_enabled(slope):
            y = act(x)
            if slope:
                y.backward(grad)

    size = inputs[0].numel()
    moved = (2 + 3) * size if slope else 2 * size  # x and y; then x, y's gradient and x's gradient
    return Side(rotate(inputs, run, clear), FLOAT * moved, flops[slope] * size)


def activations() -> Iterator[Case]:
    shape = "x".join(map(str, ELEMENTS))
    rational = catalogue.build({"name": "gr_kan", "d_model": 768, "d_hidden": 3072}).act_hidden
    poly_norm = catalogue.build({"name": "poly_norm", "d_model": 768, "d_hidden": 3072})
    poly_relu = catalogue.build({"name": "poly_relu", "d_model": 768, "d_hidden": 3072})
    for slope in (False, True):
        what = "forward + backward" if slope else "forward"
        gelu = elementwise(F.gelu, [], GELU, slope)
        for name, act, parameters, flops, goal in (
            ("GR-KAN activation vs GELU", rational, list(rational.parameters()), RATIONAL, 4 if slope else 3),
            ("PolyNorm activation vs GELU", poly_norm.activation, [poly_norm.a], POLY_NORM, 3),
            ("PolyReLU activation vs GELU", poly_relu.activation, [poly_relu.a], POLY_RELU, 3),
        ):
            ours = elementwise(act, parameters, flops, slope)
            yield Case(name, f"{shape}, {what}", ours, gelu, goal, faster=False)


def module(spec: dict[str, Any], tokens: int, read: float, flops: float) -> Side:
    """A feed-forward in inference. read: its weights in bytes; flops for one token."""
    part = catalogue.build(spec).eval().requires_grad_(False)
    stored = part.cost().weight_bytes
    copies = [part] + [copy.deepcopy(part) for _ in range(max(2, int(COLD // stored)))]
    d = spec["d_model"]
    inputs = [torch.randn(1, tokens, d) for _ in copies]
    step = rotate(list(zip(copies, inputs, strict=True)), lambda pair: pair[0](pair[1]))
    return Side(step, read + 2 * FLOAT * tokens * d, flops * tokens)


def dense(d: int, hidden: int, tokens: int, act: str) -> Side:
    spec = {"name": "mlp", "d_model": d, "d_hidden": hidden, "act": act, "bias": False}
    return module(spec, tokens, FLOAT * 2 * d * hidden, 4 * d * hidden)


def fff() -> Iterator[Case]:
    d, depth = 768, 11
    neurons = 2 ** (depth + 1) - 1
    for tokens, goal in ((1, 25), (16, 15), (1024, 8)):
        read = FLOAT * 2 * d * min(neurons, tokens * (depth + 1))
        ours = module({"name": "fff", "d_model": d, "depth": depth}, tokens, read, 4 * d * (depth + 1))
        other = dense(d, neurons, tokens, "gelu")
        yield Case(
            "FFF vs dense of as many neurons", f"{d}-{neurons}-{d}, batch {tokens}", ours, other, goal, faster=True
        )


def peer() -> Iterator[Case]:
    d, n_keys, heads, k, d_key, tokens = 512, 256, 8, 16, 128, 512
    spec = {"name": "peer", "d_model": d, "n_keys": n_keys, "heads": heads, "k": k, "d_key": d_key}
    search = heads * d_key * (d + n_keys)  # queries, and two sets of half keys of half the width
    read = FLOAT * (search + 2 * d * min(n_keys**2, tokens * heads * k))
    flops = 2 * search + 4 * heads * k * d
    setting = f"{n_keys**2} experts, d {d}, h{heads} k{k}, {tokens} tokens"
    for name, hidden, goal, faster in (
        ("PEER vs dense 512-2048-512", 2048, 3.0, False),
        ("PEER vs dense of as many parameters", n_keys**2 + search // (2 * d), 1.0, True),
    ):
        ours, other = module(spec, tokens, read, flops), dense(d, hidden, tokens, "gelu")
        yield Case(name, setting, ours, other, goal, faster)


def topk_glu() -> Iterator[Case]:
    for d, hidden in ((768, 3072), (576, 1536)):
        k = round(0.2 * hidden)
        weights = d * (hidden + 2 * k)
        spec = {"name": "topk_glu", "d_model": d, "d_hidden": hidden, "k": k}
        ours = module(spec, 1, FLOAT * weights, 2 * weights)
        glu = {"name": "glu", "d_model": d, "d_hidden": hidden}
        other = module(glu, 1, FLOAT * 3 * d * hidden, 6 * d * hidden)
        yield Case(
            "top-k GLU decode vs dense GLU", f"{d}-{hidden}-{d}, 20% kept, batch 1", ours, other, 2.5, faster=True
        )


def sigma_moe() -> Iterator[Case]:
    d, d_expert, experts, k = 512, 128, 64, 8
    spec = {"name": "sigma_moe", "d_model": d, "d_expert": d_expert, "n_experts": experts, "k": k}
    for tokens, goal in ((1, 4), (512, 3)):
        read = FLOAT * d * (experts + 2 * d_expert * min(experts, tokens * k))
        ours = module(spec, tokens, read, 2 * d * (experts + 2 * k * d_expert))
        other = dense(d, experts * d_expert, tokens, "relu")
        setting = f"{k} of {experts} experts of {d_expert}, d {d}, batch {tokens}"
        yield Case("sigma-MoE vs dense of as many parameters", setting, ours, other, goal, faster=True)


def split_ffn() -> Iterator[Case]:
    d, d_expert, experts, k = 576, 192, 8, 2
    for gate in ("keys", "linear", "mlp"):
        spec = {"name": "split_ffn", "d_model": d, "d_expert": d_expert, "n_experts": experts, "k": k, "gate": gate}
        active = {"name": "glu", "d_model": d, "d_hidden": k * d_expert}
        for tokens in (1, 16, 512):
            flops = 2 * d * (experts + 3 * k * d_expert)
            ours = module(spec, tokens, FLOAT * d * (experts + 3 * d_expert * min(experts, tokens * k)), flops)
            other = module(active, tokens, FLOAT * 3 * d * k * d_expert, 6 * d * k * d_expert)
            setting = f"{gate}, {k} of {experts} groups of {d_expert}, d {d}, batch {tokens}"
            yield Case("split FFN vs dense of the active size", setting, ours, other, 1.25, faster=False)


GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    "activations": activations,
    "fff": fff,
    "peer": peer,
    "topk_glu": topk_glu,
    "sigma_moe": sigma_moe,
    "split_ffn": split_ffn,
}


def limits(rounds: int = 7) -> tuple[float, float]:
    """Bytes per second read from memory, and FLOP per second of a matrix product, with the present threads."""
    memory, square = torch.randn(2**27), torch.randn(2048, 2048)

    def best(run: Callable[[], object]) -> float:
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[1:])

    return FLOAT * memory.numel() / best(memory.sum), 2 * 2048**3 / best(lambda: square @ square)


def measure(case: Case, threads: int, rounds: int, read_rate: float, flop_rate: float) -> dict[str, Any]:
    timings = latency({"ours": case.ours.step, "other": case.other.step}, rounds=rounds, min_seconds=0.02)
    ratio = ratio_of(timings, "other", "ours") if case.faster else ratio_of(timings, "ours", "other")
    floors = {
        side: 1e3 * max(part.bytes / read_rate, part.flops / flop_rate)
        for side, part in (("ours", case.ours), ("other", case.other))
    }
    return {
        "case": case.name,
        "setting": case.setting,
        "threads": threads,
        "ours_ms": timings["ours"].median * 1e3,
        "other_ms": timings["other"].median * 1e3,
        "ratio": ratio,
        "goal": f"{case.goal:g}x faster at least" if case.faster else f"{case.goal:g}x slower at most",
        "met": ratio >= case.goal if case.faster else ratio <= case.goal,
        "ours_floor_ms": floors["ours"],
        "other_floor_ms": floors["other"],
        "ours_mb": case.ours.bytes / 1e6,
        "ours_mflop": case.ours.flops / 1e6,
        "other_mb": case.other.bytes / 1e6,
        "other_mflop": case.other.flops / 1e6,
        "read_gb_s": read_rate / 1e9,
        "matmul_gflop_s": flop_rate / 1e9,
        "native": native.loaded(),
        "rounds": rounds,
    }


def shown(row: dict[str, Any]) -> str:
    times = f"{row['ours_ms']:9.3f} ms, other {row['other_ms']:9.3f} ms"
    verdict = f"{row['ratio']:6.2f} ({row['goal']}) {'met' if row['met'] else 'NOT MET'}"
    return f"{row['case']:<40} {row['setting']:<42} {row['threads']} thread(s) {times}, {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="timings of each side of each row")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--only", choices=list(GROUPS), help="measure these rows only, and write nothing")
    arguments = parser.parse_args()

    torch.manual_seed(0)
    rows, measured = [], {}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        measured[threads] = limits()
        print(f"{threads} thread(s): {measured[threads][0] / 1e9:.1f} GB/s, {measured[threads][1] / 1e9:.0f} GFLOP/s")
    for name, group in GROUPS.items():
        if arguments.only not in (None, name):
            continue
        try:
            for case in group():
                for threads in arguments.threads:
                    torch.set_num_threads(threads)
                    row = measure(case, threads, arguments.rounds, *measured[threads])
                    rows.append(row)
                    print(shown(row), flush=True)
        except UserError as missing:
            print(f"{name} is left out: {missing}")
    if arguments.only is None:
        conditions = {key: value for key, value in environment().items() if key != "threads"}
        print(save_csv("ffn_cpu", rows, conditions))


if __name__ == "__main__":
    main()
