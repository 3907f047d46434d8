"""How fast are the state spaces on a CPU, beside a chunked linear recurrence of equal state and transformers' mixers?

    python benchmarks/state_spaces_cpu.py [--rounds 10] [--threads 1 2] [--only TEXT]

B 1, T 1024, float32. The scans alone: 512 channels with 16 numbers each for the selective scan; 8 heads of 16 by 64 for
`gated_scan` with one decay per feature, which keeps as many numbers. Layers: width 256, state 16 (Mamba) and 8 heads
with 64 by 64 (Mamba-2), beside transformers' mixers with the same sizes in pure torch, which is what runs there without
a GPU. Every row sets ours beside the rival in one run, interleaved; `ratio` is the median over rounds of the ratio of
times within a round, and is to be at most the goal. Writes results/state_spaces_cpu.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import torch
from record import save_csv
from torch import Tensor
from transformers import Mamba2Config, MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from layersmith.measuring.environment import environment
from layersmith.measuring.latency import latency
from layersmith.measuring.latency import ratio as ratio_of
from layersmith.mixer.mamba import Mamba
from layersmith.mixer.mamba2 import Mamba2
from layersmith.mixer.shared.gated import gated_scan
from layersmith.mixer.shared.selective import selective_scan

TOKENS, CHANNELS, STATE, WIDTH = 1024, 512, 16, 256
HEADS, HEAD = 8, 64
Step = Callable[[], object]
#: Name, setting, ours, the rival, and the ratio that is wanted at most.
Case = tuple[str, str, Step, Step, float]


def selective() -> tuple[Callable[..., Any], list[Tensor]]:
    u, dt = torch.randn(1, TOKENS, CHANNELS), torch.rand(1, TOKENS, CHANNELS)
    a = -torch.arange(1.0, STATE + 1)[:, None].repeat(1, CHANNELS)
    b, c = torch.randn(2, 1, TOKENS, STATE)
    return lambda *parts: selective_scan(*parts, size=32), [u, dt, a, b, c, torch.randn(1, STATE, CHANNELS)]


def gated() -> tuple[Callable[..., Any], list[Tensor]]:
    q, k = torch.randn(2, 1, HEADS, TOKENS, STATE)
    v, decay = torch.randn(1, HEADS, TOKENS, HEAD), -torch.rand(1, HEADS, TOKENS, STATE)
    return lambda *parts: gated_scan(*parts, 64), [q, k, v, decay, torch.randn(1, HEADS, STATE, HEAD)]


def token_by_token(u: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    y = []
    for t in range(u.shape[1]):
        state = (dt[:, t, None] * a).exp() * state + (dt[:, t] * u[:, t])[:, None] * b[:, t, :, None]
        y.append((c[:, t, None] @ state).squeeze(1))
    return torch.stack(y, 1), state


def step(scan: Callable[..., Any], parts: list[Tensor], trained: bool) -> Step:
    """The outputs, and when trained the gradients of all inputs as well."""
    if not trained:
        return lambda: scan(*parts)
    parts = [part.clone().requires_grad_() for part in parts]

    def both() -> None:
        with torch.enable_grad():
            torch.autograd.grad(sum(out.sum() for out in scan(*parts)), parts)

    return both


def cases() -> Iterator[Case]:
    scan, parts = selective()
    for trained in (False, True):
        what = "forward + backward" if trained else "forward"
        ours = step(scan, parts, trained)
        yield "selective scan, token by token", what, ours, step(token_by_token, parts, trained), 1.0
        yield "selective scan, equal state, decays per feature", what, ours, step(*gated(), trained), 2.0
    x = torch.randn(1, TOKENS, WIDTH)
    small = MambaConfig(hidden_size=WIDTH, state_size=STATE, num_hidden_layers=1, use_mambapy=False)
    pairs = {"mamba, transformers": (Mamba(WIDTH).eval(), MambaMixer(small, 0).eval())}
    heads = {"num_heads": HEADS, "head_dim": HEAD, "state_size": HEAD, "n_groups": 1, "chunk_size": 64}
    large = Mamba2Config(hidden_size=WIDTH, num_hidden_layers=1, **heads)
    pairs["mamba2, transformers"] = (Mamba2(WIDTH, HEADS).eval(), Mamba2Mixer(large, 0).eval())
    for name, (ours, theirs) in pairs.items():
        yield name, "forward", lambda ours=ours: ours(x), lambda theirs=theirs: theirs(x), 1.0


@torch.no_grad()
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
        for name, setting, ours, other, goal in cases():
            if arguments.only and arguments.only not in name:
                continue
            timings = latency({"ours": ours, "other": other}, rounds=arguments.rounds)
            ratio = ratio_of(timings, "ours", "other")
            row = {
                "case": name,
                "setting": setting,
                **{f"{side}_ms": timing.median * 1e3 for side, timing in timings.items()},
                **{"ratio": ratio, "goal": goal, "met": ratio <= goal, "rounds": arguments.rounds, "threads": threads},
            }
            rows.append(row)
            print(row, flush=True)
    if not arguments.only:
        conditions = {key: value for key, value in environment().items() if key != "threads"}
        print(save_csv("state_spaces_cpu", rows, conditions))


if __name__ == "__main__":
    main()
