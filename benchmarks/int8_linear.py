"""What one linear map takes in int8 and in bfloat16, against float32 `nn.Linear`, on this machine.

    layersmith compile && python benchmarks/int8_linear.py [--rounds 15]

For each shape and number of rows five steps are interleaved in one run: float32, `int8_dynamic` with the compiled
kernel, the same by its reference in plain torch, torch's bare integer product (neither rounding nor rescaling: what
there is to reach), and `bf16`. Figures are the median over rounds of a step's time to float32's in the same round.
`kernel_gain` is reference / kernel. Writes results/int8_linear.csv, or another name: a processor of another kind has
figures of its own.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from record import save_csv
from torch import nn

from layersmith.kernels import native
from layersmith.kernels.int8 import reference
from layersmith.linear.half_precision import HalfPrecision
from layersmith.linear.int8_dynamic import Int8Dynamic
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import Step, latency, ratio

#: (d_out, d_in): feed-forward, attention and head of SmolLM2-135M, feed-forward of a 1 B model.
SHAPES = [(1536, 576), (576, 1536), (576, 576), (192, 576), (8192, 2048), (2048, 8192), (49152, 576)]
ROWS = (1, 16, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="int8_linear", help="of the file under results")
    arguments = parser.parse_args()
    if not native.loaded():
        raise SystemExit("The kernels have not been built here: run `layersmith compile` first.")
    rows = [measured(d_out, d_in, n, arguments.rounds) for d_out, d_in in SHAPES for n in ROWS]
    print(save_csv(arguments.name, rows, environment()))


@torch.no_grad()
def measured(d_out: int, d_in: int, n: int, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    dense, x = nn.Linear(d_in, d_out, bias=False), torch.randn(n, d_in)
    int8, half = Int8Dynamic.from_weight(dense.weight), HalfPrecision.from_weight(dense.weight)
    whole, codes, scale = (40 * x).clamp(-127, 127).to(torch.int8), int8.codes, int8.scale
    steps = {
        "float32": Step(lambda: dense(x)),
        "int8_kernel": Step(lambda: int8(x)),
        "int8_reference": Step(lambda: reference(x, codes, scale, None)),
        "bare_product": Step(lambda: torch._int_mm(whole, codes.t())),
        "bf16": Step(lambda: half(x)),
    }
    timings = latency(steps, rounds=rounds, warmup=2, min_seconds=1e-3, device=torch.device("cpu"))
    row: dict[str, Any] = {"d_out": d_out, "d_in": d_in, "rows": n, "float32_ms": timings["float32"].median * 1e3}
    row |= {name: ratio(timings, name, "float32") for name in steps if name != "float32"}
    row["kernel_gain"] = ratio(timings, "int8_reference", "int8_kernel")
    print(" ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    return row


if __name__ == "__main__":
    main()
