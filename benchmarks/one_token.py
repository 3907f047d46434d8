"""One token times one matrix: what do our kernels take, what do torch's best take, and what does the memory allow?

    layersmith compile && python benchmarks/one_token.py [--rounds 15] [--threads 2]

For each shape the steps take turns: `nn.Linear` in float32, `one_row` (kernel, and its reference, a batched product),
`int8_dynamic` (kernel, and torch's operations around `_int_mm`), `quantized` at 8 and 4 bits (kernel, and at 8 its
reference, which unpacks), torch's `_weight_int8pack_mm` and `bf16`. Every call reads another copy of its matrix, as
many as are twice the size of the last cache together, so weights come from memory as they do in a model. `bound` is the
share of a kernel's time that its bytes take at the read bandwidth measured first (the sum of a large tensor, on one
thread and on all).
`gain` columns are torch's best / kernel. Writes results/one_token.csv, or another name: a processor of another kind has
figures of its own.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from record import save_csv
from torch import Tensor, nn

from layersmith.kernels import native
from layersmith.kernels.int8 import reference as int8_reference
from layersmith.kernels.one_row import in_groups
from layersmith.linear.half_precision import HalfPrecision
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.linear.one_row import OneRow
from layersmith.linear.quantized import QuantizedLinear
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import Step, latency, ratio

#: (d_out, d_in) of SmolLM2-135M: gate and up, down, q/k/v, output, keys alone, head; and a feed-forward of a 1 B model.
SHAPES = [(3072, 576), (576, 1536), (960, 576), (576, 576), (192, 576), (49152, 576), (2048, 8192)]
CACHE_BYTES = 64 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--name", default="one_token", help="of the file under results")
    arguments = parser.parse_args()
    if not native.loaded():
        raise SystemExit("The kernels have not been built here: run `layersmith compile` first.")
    bandwidth = {threads: read_bandwidth(threads) for threads in (1, arguments.threads)}
    for threads, found in bandwidth.items():
        print(f"reading memory on {threads} thread(s): {found / 1e9:.1f} GB/s")
    torch.set_num_threads(arguments.threads)
    rows = [measured(d_out, d_in, arguments.rounds, bandwidth[arguments.threads]) for d_out, d_in in SHAPES]
    for row in rows:
        row |= {f"GB/s, {threads} threads": found / 1e9 for threads, found in bandwidth.items()}
    print(save_csv(arguments.name, rows, environment()))


def read_bandwidth(threads: int, size: int = 400 << 20) -> float:
    """Bytes a second of the sum over a large tensor: the best of ten."""
    torch.set_num_threads(threads)
    large, best = torch.zeros(size // 4), math.inf
    for _ in range(10):
        start = time.perf_counter()
        large.sum()
        best = min(best, time.perf_counter() - start)
    return size / best


@torch.no_grad()
def measured(d_out: int, d_in: int, rounds: int, bandwidth: float) -> dict[str, Any]:
    torch.manual_seed(0)
    dense, x = nn.Linear(d_in, d_out, bias=False), torch.randn(1, d_in)
    int8, rows = Int8Dynamic.from_weight(dense.weight), OneRow.from_weight(dense.weight)
    packed = {bits: QuantizedLinear.from_weight(dense.weight, bits, 64) for bits in (8, 4)}
    half = HalfPrecision.from_weight(dense.weight)
    bf16, scale = x.bfloat16(), int8.scale.bfloat16()
    steps = {
        "float32": turns(lambda part: part(x), dense),
        "one_row": turns(lambda part: part(x), rows),
        "one_row_reference": turns(lambda part: in_groups(x, part.weight, None), rows),
        "int8_dynamic": turns(lambda part: part(x), int8),
        "int8_reference": turns(lambda part: int8_reference(x, part.codes, part.scale, None), int8),
        "8_bits": turns(lambda part: part(x), packed[8]),
        "4_bits": turns(lambda part: part(x), packed[4]),
        "8_bits_reference": turns(lambda part: nn.functional.linear(x, part.unpacked()), packed[8]),
        "torch_int8pack": turns(lambda part: torch._weight_int8pack_mm(bf16, part.codes, scale), int8),
        "bf16": turns(lambda part: part(x), half),
    }
    timings = latency(steps, rounds=rounds, warmup=2, min_seconds=1e-3, device=torch.device("cpu"))
    row: dict[str, Any] = {"d_out": d_out, "d_in": d_in, "float32_us": timings["float32"].median * 1e6}
    row |= {name: ratio(timings, name, "float32") for name in steps if name != "float32"}
    row["one_row_gain"] = min(ratio(timings, name, "one_row") for name in ("float32", "one_row_reference"))
    others = ("float32", "one_row_reference", "int8_reference", "torch_int8pack", "bf16")
    for name in ("int8_dynamic", "8_bits", "4_bits"):
        row[f"{name}_gain"] = min(ratio(timings, other, name) for other in others)
    for name, part in {"float32": dense, "int8_dynamic": int8, "8_bits": packed[8], "4_bits": packed[4]}.items():
        bound = stored(part) / bandwidth
        fastest = min(timings[name].median, timings["one_row"].median) if name == "float32" else timings[name].median
        row[f"{name}_bound"] = bound / fastest
    print(" ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    return row


def turns(run: Callable[[Any], Tensor], part: nn.Module) -> Step:
    """The step on one copy of the part after another."""
    count = max(2, CACHE_BYTES // stored(part) + 1)
    copies = itertools.cycle([part, *[copy.deepcopy(part) for _ in range(count - 1)]])
    return Step(lambda: run(next(copies)))


def stored(part: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in [*part.parameters(), *part.buffers()])


if __name__ == "__main__":
    main()
