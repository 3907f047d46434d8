"""What does a refit cost on this machine: wall time, time per stage and peak memory, and how do they grow with depth?

    python benchmarks/job_cost.py pocket                     # the defaults of `layersmith refit`, healing included
    python benchmarks/job_cost.py depth [--layers 4,8,16]    # small random Llamas that differ in depth alone
    python benchmarks/job_cost.py NAME --finished OUT ...    # of runs made already; their wall time is that of their
                                                             # stages, healing of a baseline included if any had one

Each refit is a process of its own, as a user would start it. Stage times and peak memory come from its result.json,
wall time from outside, imports included. Random weights cost what trained ones do; the depth runs take one method
beside the four floors, a quarter of the default effort and little healing, so that what depth changes is what shows
within minutes. Any other MODEL works like pocket.

Writes results/job_cost-MODEL.csv or results/job_cost-depth.csv.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from record import save_csv
from transformers import LlamaConfig, LlamaForCausalLM

import layersmith

DEPTH_METHODS, DEPTH_HEAL_TOKENS, DEPTH_EFFORT = "width", 2048, 0.25
GIB = 2**30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="pocket, a folder, a Hub id; or `depth`")
    parser.add_argument("--finished", type=Path, nargs="+", help="the --out of finished refits, instead of running one")
    parser.add_argument("--layers", default="4,8,16", help="depths to compare, with `depth`")
    parser.add_argument("--width", type=int, default=64, help="d_model of the random models, with `depth`")
    parser.add_argument("--budget", default="latency=0.75", help="as for `layersmith refit`")
    parser.add_argument("--methods", help="only these methods, separated by commas")
    parser.add_argument("--heal-tokens", type=int, help="tokens to heal on (default: by model size)")
    parser.add_argument("--effort", type=float, help="as for `layersmith refit` (default: its own)")
    arguments = parser.parse_args()
    if arguments.finished:
        results = {out: json.loads((out / "result.json").read_text(encoding="utf-8")) for out in arguments.finished}
        rows = [{"model": arguments.model, **row_of(r, out, r["timings"]["total"])} for out, r in results.items()]
        print(save_csv(f"job_cost-{arguments.model}", rows, conditions={}))
        return
    depth = arguments.model == "depth"
    options = ["--budget", arguments.budget, "--quiet"]
    methods = arguments.methods or (DEPTH_METHODS if depth else None)
    tokens = DEPTH_HEAL_TOKENS if depth and arguments.heal_tokens is None else arguments.heal_tokens
    effort = DEPTH_EFFORT if depth and arguments.effort is None else arguments.effort
    options += ["--effort", str(effort)] if effort is not None else []
    options += ["--methods", methods] if methods else []
    options += ["--heal-tokens", str(tokens)] if tokens is not None else []

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        sources = {arguments.model: arguments.model}
        if depth:
            depths = [int(n) for n in arguments.layers.split(",")]
            sources = {f"random-{n}": random_llama(Path(folder) / f"random-{n}", n, arguments.width) for n in depths}
        for name, source in sources.items():
            out = Path(folder) / f"{Path(name).name}-out"
            row = {"model": Path(name).name, **cost_of(str(source), options, out)}
            rows.append(row)
            print(
                f"{row['model']:<12} {row['layers']:>3} layers  {row['wall_s']:7.1f} s  {row['peak_rss_gib']:.2f} GiB"
            )
    print(save_csv(f"job_cost-{Path(arguments.model).name}", rows, conditions={}))


def cost_of(source: str, options: list[str], out: Path) -> dict[str, Any]:
    """Refit in a process of its own; `row_of` the result."""
    start = time.perf_counter()
    command = [sys.executable, "-c", "from layersmith.cli import main; main()", "refit", source, *options]
    subprocess.run([*command, "--out", str(out)], check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - start
    return row_of(json.loads((out / "result.json").read_text()), out, wall)


def row_of(result: dict[str, Any], out: Path, wall: float) -> dict[str, Any]:
    """What a finished refit cost, and the conditions it ran under."""
    return {
        "layers": result["model"]["layers"],
        "params": result["model"]["params"],
        "sites": len(result["sites"]),
        "candidates": len(result["candidates"]),
        "methods": " ".join(result["settings"]["methods"]),
        "budget": " ".join(f"{name}={share:g}" for name, share in result["settings"]["budget"].items()),
        "at": result["settings"]["at"],
        "heal_tokens": (result["heal"] or {"tokens": 0})["tokens"],
        "heal_baseline": result["settings"]["heal_baseline"],
        "wall_s": wall,
        "peak_rss_gib": result["peak_rss_bytes"] / GIB,
        **{f"{stage}_s": seconds for stage, seconds in result["timings"].items()},
        "disk_mib": sum(file.stat().st_size for file in out.rglob("*") if file.is_file()) / 2**20,
        "meets_budget": result["chosen"]["meets_budget"],
        **result["environment"],
    }


def random_llama(folder: Path, layers: int, width: int) -> Path:
    """A Llama with seeded random weights and pocket's tokenizer, saved where a refit can load it."""
    tokenizer = layersmith.load("pocket")[1]
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
