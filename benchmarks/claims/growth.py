"""How time grows with the length of a text, for five mixers whose papers state an order; and what Mamba's state takes.

    python benchmarks/claims/growth.py [--longest 16384]

The shapes and clocks of `benchmarks/mixer_cpu.py`: one text, 4 heads of 64 and a width of 256 or the part's own sizes,
without gradients, all threads, interleaved with torch's fused causal attention. The exponent is the slope of log time
over log tokens from 2k tokens on. A paper that says "linear" is taken at 1.15, one that says n log n at 1.25: what an
exponent of 1, or a factor log n, comes to on caches of finite size.
Mamba: decoding after 1k to 64k tokens; time within 10 % of each other and bytes equal.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import mixer_cpu
from record import save_claim

#: Part -> (paper, its order, the exponent that counts as held).
STATED = {
    "linformer": ("2006.04768", "O(n)", 1.15),
    "galerkin": ("2105.14995", "O(n)", 1.15),
    "lsh_attention": ("2001.04451", "O(n log n)", 1.25),
    "toeplitz_attention": ("2106.12566", "O(n log n)", 1.25),
}
MAMBA = "mamba"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=mixer_cpu.LENGTHS[-1])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    lengths = [tokens for tokens in mixer_cpu.LENGTHS if tokens <= given.longest]
    table = mixer_cpu.Table(mixer_cpu.rows_of([*STATED, MAMBA]), given.rounds, patience=60.0)
    for tokens in lengths:
        table.measure("forward", tokens, mixer_cpu.of_length(mixer_cpu.forward, tokens))
    for tokens in mixer_cpu.DECODE:
        table.measure("decode", tokens, mixer_cpu.of_state(tokens))
    table.exponents()
    for part, (paper, order, most) in STATED.items():
        _grows(part, paper, order, most, table.found)
    _flat(table.found)


def _grows(part: str, paper: str, order: str, most: float, found: list[dict[str, Any]]) -> None:
    rows = [row for row in found if row["what"] == "forward" and row["mixer"] in (part, mixer_cpu.RIVAL)]
    own, rival = ([row for row in rows if row["mixer"] == name] for name in (part, mixer_cpu.RIVAL))
    exponent, beside = own[0]["exponent_from_2k"], rival[0]["exponent_from_2k"]
    last = own[-1]
    save_claim(
        f"growth-{part}",
        part,
        paper,
        f"Time grows as {order} with the length of a text",
        "held" if exponent <= most else "did not hold",
        f"From 2k to {last['tokens']} tokens the time of a forward pass grows as n^{exponent:.2f} ({order} counts as "
        f"held up to {most}); causal attention's as n^{beside:.2f}, and at {last['tokens']} tokens the part takes "
        f"{last['ratio']:.2f} of its time.",
        rows,
    )


def _flat(found: list[dict[str, Any]]) -> None:
    rows = [row for row in found if row["what"] == "decode" and row["mixer"] == MAMBA]
    times = [row["ms"] for row in rows]
    flat = max(times) <= 1.1 * min(times) and len({row["state_bytes"] for row in rows}) == 1
    save_claim(
        "decode-mamba",
        MAMBA,
        "2312.00752",
        "A step of decoding takes the same time and state however much was read",
        "held" if flat else "did not hold",
        f"One token after {rows[0]['tokens']} to {rows[-1]['tokens']} tokens: {min(times):.3f} to {max(times):.3f} ms, "
        f"{rows[0]['state_bytes']} to {rows[-1]['state_bytes']} bytes of state.",
        rows,
    )


if __name__ == "__main__":
    main()
