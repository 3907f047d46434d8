"""What do the mixers take on a CPU as texts grow, beside causal attention, and what does decoding take and keep?

    python benchmarks/mixer_cpu.py [NAME ...] [--rounds 5] [--threads 2] [--longest 16384] [--backward 4096] [--quick]

NAME is a part of the catalogue (all mixers of the table below if none is given), in the shape of its row: 4 heads of
64 and a width of 256, or its own sizes where it has no heads. `causal_sdpa` is torch's fused causal attention with the
same maps around it, and stands in every round as the rival.

forward     at 512, 1k ... `--longest` tokens, one text, without gradients
backward    forward and backward together, up to `--backward` tokens
decode      one token after 1k, 4k, 16k and 64k tokens: time, and bytes of the state (made by reading pieces of 4k)

`exponent` is the slope of log time over log tokens by least squares, over all lengths, and once more from 2k tokens on,
where the calls themselves no longer count.

`ratio` is the median over rounds of a part's time divided by that of `causal_sdpa` in the same round. A part that takes
longer than `--patience` seconds for one call is not asked at larger sizes, and the row says so. Mixers that do not
stream have no decode rows; those of a fixed length are built for each length. Writes results/mixer_cpu.csv (with
--quick, and when parts are named, nothing: figures of a part of the table would replace those of all).
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from record import save_csv

from layersmith import catalogue
from layersmith.contract import Mixer, State, kept_bytes
from layersmith.measuring.environment import environment
from layersmith.measuring.latency import Step, latency, ratio

LENGTHS = (512, 1024, 2048, 4096, 8192, 16384)
DECODE = (1024, 4096, 16384, 65536)
#: Tokens read at once on the way to a long state.
PIECE = 4096
#: A step that can be timed, and facts about it.
Made = tuple[Step, dict[str, Any]]
RIVAL = "causal_sdpa"
HEADS = {"d_model": 256, "n_heads": 4}

#: Row -> (part, settings beside HEADS, where the defaults do not do; "length" stands for the tokens of the row).
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    RIVAL: ("softmax_attention", {}),
    "window 256": ("pattern_attention", {"size": 256}),
    "window 256, 4 sinks": ("pattern_attention", {"size": 252, "first": 4}),
    "block 256": ("pattern_attention", {"pattern": "block", "size": 256}),
    "shifted 256": ("pattern_attention", {"pattern": "shifted", "size": 256}),
    "dilated 64 x 4": ("pattern_attention", {"pattern": "dilated", "size": 64, "dilation": 4}),
    "strided 128": ("pattern_attention", {"pattern": "strided", "size": 128}),
    "fixed 128": ("pattern_attention", {"pattern": "fixed", "size": 128}),
    "combiner, spans of 128": ("combiner", {"span": 128}),
    "tova 256": ("tova", {"keep": 256, "chunk": 16}),
}


class Row:
    """A line of the table, built for a length."""

    def __init__(self, name: str, part: str, settings: dict[str, Any]):
        self.name, self.part, self.settings = name, part, settings

    def module(self, tokens: int) -> Mixer:
        torch.manual_seed(0)
        given = {k: tokens if v == "length" else v for k, v in self.settings.items()}
        return catalogue.build({"name": self.part, **given}).eval()


def rows_of(names: list[str]) -> list[Row]:
    """The rows asked for. A mixer without a row of its own gets one, from HEADS and its example in the catalogue."""
    table = {name: Row(name, part, {**HEADS, **settings}) for name, (part, settings) in ROWS.items()}
    have = {row.part for row in table.values()}
    for part, entry in catalogue.ENTRIES.items():
        if entry.family == "mixer" and part not in have:
            table[part] = Row(part, part, _settings(part, entry.example))
    if not names:
        return list(table.values())
    chosen = [row for row in table.values() if row.part in names or row.name in names]
    found = {row.part for row in chosen} | {row.name for row in chosen}
    if missing := [name for name in names if name not in found]:
        raise SystemExit(f"No mixer is called {', '.join(missing)}. There are: {', '.join(sorted(table))}.")
    return [table[RIVAL], *(row for row in chosen if row.name != RIVAL)]


def _settings(part: str, example: dict[str, Any]) -> dict[str, Any]:
    """HEADS, and what the part cannot do without of its example; a length is the row's."""
    sizes = {k: HEADS.get(k, v) for k, v in example.items() if k not in ("n_kv_heads", "rope_theta", "qk_norm")}
    return {k: "length" if k in ("length", "n_tokens", "tokens") else v for k, v in sizes.items()}


def forward(module: Mixer, tokens: int) -> Step:
    x = torch.randn(1, tokens, module.d_in)

    def run() -> None:
        with torch.no_grad():
            module(x)

    return Step(run)


def backward(module: Mixer, tokens: int) -> Step:
    x, grad = torch.randn(1, tokens, module.d_in, requires_grad=True), torch.randn(1, tokens, module.d_in)

    def clear() -> None:
        module.zero_grad()
        x.grad = None

    def run() -> None:
        with torch.enable_grad():
            module(x)[0].backward(grad)

    return Step(run, clear)


@torch.no_grad()
def state_after(module: Mixer, tokens: int) -> State | None:
    state: State | None = None
    generator = torch.Generator().manual_seed(0)
    for start in range(0, tokens, PIECE):
        x = torch.randn(1, min(PIECE, tokens - start), module.d_in, generator=generator)
        _, state = module(x, state)
        state = None if state is None else module.settled(state)
    return state


def decode(module: Mixer, state: State | None) -> Step:
    x = torch.randn(1, 1, module.d_in)

    def run() -> None:
        with torch.inference_mode():
            module(x, state)

    return Step(run)


def of_length(make: Callable[[Mixer, int], Step], tokens: int) -> Callable[[Row], Made]:
    """What a row's step on a text of that length is: `make` is `forward` or `backward`."""
    return lambda row: (make(row.module(tokens), tokens), {})


def of_state(tokens: int) -> Callable[[Row], Made]:
    """What a row's step of decoding after so many tokens is, and the bytes of its state."""

    def made(row: Row) -> Made:
        module = row.module(tokens)
        if not module.streams:
            raise ValueError("it does not stream")
        state = state_after(module, tokens)
        return decode(module, state), {"state_bytes": kept_bytes((state or {}).values())}

    return made


def slope(times: dict[int, float]) -> float | None:
    """Of log time over log tokens, by least squares."""
    if len(times) < 3:
        return None
    x, y = [math.log(n) for n in times], [math.log(t) for t in times.values()]
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    squares = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / squares


class Table:
    """Times what is asked, round by round, and leaves out what has become too slow."""

    def __init__(self, rows: list[Row], rounds: int, patience: float):
        self.rows, self.rounds, self.patience = rows, rounds, patience
        self.found: list[dict[str, Any]] = []
        self.slow: set[tuple[str, str]] = set()

    def measure(self, what: str, tokens: int, step_of: Callable[[Row], Made]) -> None:
        steps: dict[str, Step] = {}
        facts: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            if (what, row.name) in self.slow:
                continue
            try:
                steps[row.name], facts[row.name] = step_of(row)
                taken = _once(steps[row.name])
            except (ValueError, RuntimeError, MemoryError) as error:  # does not stream, is not that long, does not fit
                steps.pop(row.name, None)
                self._leave_out(what, row, tokens, " ".join(str(error).split())[:160])
                continue
            if taken > self.patience:
                steps.pop(row.name)
                self._leave_out(what, row, tokens, f"one call took {taken:.0f} s")
        timings = latency(steps, rounds=self.rounds, warmup=1, min_seconds=0.01) if steps else {}
        for name, timing in timings.items():
            beside = ratio(timings, name, RIVAL) if RIVAL in timings else None
            line = {"what": what, "mixer": name, "tokens": tokens, "ms": timing.median * 1e3, "ratio": beside}
            self.found.append({**line, **facts[name], "rounds": self.rounds})
            shown = "" if beside is None else f"{beside:8.3f} of {RIVAL}"
            print(f"{what:<9} {tokens:>6} tokens  {name:<28} {timing.median * 1e3:10.3f} ms {shown}", flush=True)

    def _leave_out(self, what: str, row: Row, tokens: int, reason: str) -> None:
        self.slow.add((what, row.name))
        self.found.append({"what": what, "mixer": row.name, "tokens": tokens, "left_out": reason})
        print(f"{what:<9} {tokens:>6} tokens  {row.name:<28} left out: {reason}", flush=True)

    def exponents(self) -> None:
        for what in ("forward", "backward", "decode"):
            for row in self.rows:
                own = [
                    line for line in self.found if line["what"] == what and line["mixer"] == row.name and "ms" in line
                ]
                times = {line["tokens"]: line["ms"] for line in own}
                late = {tokens: ms for tokens, ms in times.items() if tokens >= 2048}
                for name, part in (("exponent", times), ("exponent_from_2k", late)):
                    for line in own:
                        line[name] = slope(part)
                if own and own[0]["exponent"] is not None:
                    late_part = own[0]["exponent_from_2k"]
                    from_2k = "" if late_part is None else f", from 2k on {late_part:.2f}"
                    print(f"{what:<9} {row.name:<28} grows as tokens^{own[0]['exponent']:.2f}{from_2k}")


def _once(step: Step) -> float:
    step.before()
    start = time.perf_counter()
    step.run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts, or rows of the table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="tokens of the longest text, forward")
    parser.add_argument("--backward", type=int, default=4096, help="the same with gradients; 0 leaves them out")
    parser.add_argument(
        "--decode", type=int, default=DECODE[-1], help="tokens of the longest state; 0 leaves decode out"
    )
    parser.add_argument("--patience", type=float, default=20.0, help="seconds for one call")
    parser.add_argument("--quick", action="store_true", help="two rounds, up to 2k tokens, nothing written")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.longest, given.backward, given.decode = 2, 2048, 1024, 4096
    torch.set_num_threads(given.threads)
    table = Table(rows_of(given.names), given.rounds, given.patience)

    for tokens in LENGTHS:
        if tokens <= given.longest:
            table.measure("forward", tokens, of_length(forward, tokens))
        if tokens <= given.backward:
            table.measure("backward", tokens, of_length(backward, tokens))
    for tokens in DECODE:
        if tokens <= given.decode:
            table.measure("decode", tokens, of_state(tokens))
    table.exponents()
    if not (given.quick or given.names):
        print(save_csv("mixer_cpu", table.found, environment()))


if __name__ == "__main__":
    main()
