"""Is the chunked delta rule as fast on a CPU as it should be beside causal attention and transformers' own form?

    python benchmarks/delta_rule_cpu.py [--rounds 10] [--threads 1 2] [--only TEXT]

One layer's worth of heads, without its projections: B 1, H 4, head_dim 64, float32. Rivals are
torch.nn.functional.scaled_dot_product_attention(is_causal=True) and `torch_chunk_gated_delta_rule` of Qwen3-Next in
transformers, which is what runs there without a GPU. Every row sets ours beside the rival in one run, interleaved;
`ratio` is the median over rounds of the ratio within a round, in the sense of its goal. Growth rows time ours alone at
several lengths and fit the exponent of time in length. Writes results/delta_rule_cpu.csv.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from record import save_csv
from torch import Tensor
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from layersmith.measuring.environment import environment
from layersmith.measuring.latency import latency
from layersmith.measuring.latency import ratio as ratio_of
from layersmith.mixer.shared.delta_rule import delta_rule_chunked
from layersmith.mixer.shared.gated import gated_scan

HEADS, DIM, CHUNK = 4, 64, 64
LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
Step = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """goal: at most this share of the rival's time (`faster` False), or at least this many times faster."""

    name: str
    setting: str
    ours: Step
    other: Step
    goal: float
    faster: bool = False


def inputs(tokens: int, trained: bool) -> dict[str, Tensor]:
    q, k, v = torch.randn(3, 1, HEADS, tokens, DIM)
    beta, log_decay = torch.rand(1, HEADS, tokens, 1), -0.1 * torch.rand(1, HEADS, tokens, 1)
    state = torch.zeros(1, HEADS, DIM, DIM)
    parts = {"q": q, "k": F.normalize(k, dim=-1), "v": v, "beta": beta, "state": state, "log_decay": log_decay}
    return {name: part.requires_grad_(trained) for name, part in parts.items()}


def timed(run: Callable[..., Tensor], parts: dict[str, Tensor], trained: bool) -> Step:
    """The outputs, and when trained the gradients of all inputs as well."""
    if not trained:
        return lambda: run(**parts)

    def both() -> None:
        with torch.enable_grad():
            torch.autograd.grad(run(**parts).sum(), list(parts.values()), allow_unused=True)

    return both


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, log_decay: Tensor) -> Tensor:
    return delta_rule_chunked(q, k, v, beta, state, CHUNK)[0]


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, log_decay: Tensor) -> Tensor:
    return delta_rule_chunked(q, k, v, beta, state, CHUNK, log_decay=log_decay)[0]


def gla(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, log_decay: Tensor) -> Tensor:
    return gated_scan(q, k, v, log_decay.expand_as(k), state, CHUNK)[0]


def retention(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, log_decay: Tensor) -> Tensor:
    return gated_scan(q, k, v, log_decay, state, CHUNK)[0]


def attention(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, log_decay: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def transformers(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, state: Tensor, log_decay: Tensor) -> Tensor:
    q, k, v, beta, log_decay = (part.transpose(1, 2) for part in (q, k, v, beta, log_decay))
    return torch_chunk_gated_delta_rule(
        q, k, v, log_decay[..., 0], beta[..., 0], initial_state=state, output_final_state=True
    )[0]


def cases() -> Iterator[Case]:
    for trained in (False, True):
        what = "forward + backward" if trained else "forward"
        parts = inputs(2048, trained)

        def step(run: Callable[..., Tensor], parts: dict[str, Tensor] = parts, trained: bool = trained) -> Step:
            return timed(run, parts, trained)

        goal = 1.0 if trained else 0.6
        yield Case("delta rule vs causal SDPA", f"T 2048, {what}", step(delta_rule), step(attention), goal)
        yield Case("gated delta rule vs causal SDPA", f"T 2048, {what}", step(gated_delta_rule), step(attention), goal)
        yield Case(
            "gated delta rule vs transformers", f"T 2048, {what}", step(gated_delta_rule), step(transformers), 3, True
        )
        yield Case("one decay per token vs causal SDPA", f"T 2048, {what}", step(retention), step(attention), goal)
        yield Case("one decay per feature vs causal SDPA", f"T 2048, {what}", step(gla), step(attention), goal)
    long = inputs(16384, False)
    ours, other = timed(delta_rule, long, False), timed(attention, long, False)
    yield Case("delta rule vs causal SDPA", "T 16384, forward", ours, other, 0.15)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    timings = latency({"ours": case.ours, "other": case.other}, rounds=rounds)
    ratio = ratio_of(timings, "other", "ours") if case.faster else ratio_of(timings, "ours", "other")
    return {
        "case": case.name,
        "setting": case.setting,
        **{f"{side}_ms": timing.median * 1e3 for side, timing in timings.items()},
        "ratio": ratio,
        "goal": f"{case.goal:g}x faster at least" if case.faster else f"{case.goal:g} of its time at most",
        "met": ratio >= case.goal if case.faster else ratio <= case.goal,
        "rounds": rounds,
    }


def growth(run: Callable[..., Tensor], rounds: int) -> dict[str, Any]:
    """The exponent of time in length, by least squares on logarithms of the medians."""
    steps = {str(n): timed(run, inputs(n, False), False) for n in LENGTHS}
    medians = {int(n): timing.median for n, timing in latency(steps, rounds=rounds).items()}
    exponent = statistics.linear_regression(
        *([math.log(x) for x in part] for part in (medians, medians.values()))
    ).slope
    return {
        "case": f"growth of {run.__name__}",
        "setting": f"T {LENGTHS[0]} to {LENGTHS[-1]}, forward",
        "ours_ms": medians[LENGTHS[-1]] * 1e3,
        "ratio": exponent,
        "goal": "1.15 at most",
        "met": exponent <= 1.15,
        "rounds": rounds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="timings of each side of each row")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads")
    parser.add_argument("--only", help="measure rows with this text in their name, and write nothing")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        for case in cases():
            if arguments.only and arguments.only not in f"{case.name}, {case.setting}":
                continue
            row = measure(case, arguments.rounds)
            rows.append({**row, "threads": threads})
            print(threads, "thread(s)", row, flush=True)
        if not arguments.only:
            for run in (delta_rule, gated_delta_rule, retention, gla):
                row = growth(run, max(3, arguments.rounds // 3))
                rows.append({**row, "threads": threads})
                print(threads, "thread(s)", row, flush=True)
    if not arguments.only:
        conditions = {key: value for key, value in environment().items() if key != "threads"}
        print(save_csv("delta_rule_cpu", rows, conditions))


if __name__ == "__main__":
    main()
