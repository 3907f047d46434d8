"""How many trainings of associative recall end in an hour, in `race` and in zoology's own loop, at equal accuracy?

    python benchmarks/recall_trials.py PYTHON CHECKOUT [--trials 2] [--steps 1500] [--turns 2]

PYTHON is that of an environment with what zoology imports (torch, torchvision, einops, pandas, pydantic, tqdm, wandb),
CHECKOUT its code, https://github.com/HazyResearch/zoology at dbcb60d (the commit after it returns embeddings in place
of logits). Both train the model of its basic example, two layers of attention with one head, 128 wide, a feed-forward
of four times that width, at the learning rate and decay of that example, 32 examples a step, on its associative recall
with 4 pairs in 32 tokens of a vocabulary of 64: on the example's own 64 and 256 neither learns within minutes.

Theirs goes over 10,000 examples until it tests above 0.99, at most 100 times, one training after the other on all
threads, as its launcher does without a GPU. Ours takes --steps steps of fresh examples, one thread each, as many at a
time as there are threads, with `race`'s schedule and clipping. Data, tests and start-up of workers count on both sides;
ours also has its entrants sized and its report written. Each takes its turn, `--turns` times.

Goal: at least twice the trainings an hour, at an accuracy that is no lower. Writes results/recall_trials.csv.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from official.checkout import commit
from record import save_csv

import layersmith
from layersmith.measuring.environment import environment
from layersmith.model.spec import read_spec
from layersmith.model.task_model import cost_of
from layersmith.racing.tasks import build_task
from layersmith.racing.train import ends_of

RATE = 1e-3
TASK = {"vocabulary": 64, "pairs": 4, "tokens": 32}
MODEL = {
    "d_model": 128,
    "n_heads": 1,
    "mixer": "softmax_attention",
    "ffn": {"name": "mlp", "d_hidden": 512},
    "norm": "layer_norm",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python")
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--trials", type=int, default=2, help="of each in a turn; ours are twice as many")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--turns", type=int, default=2)
    asked = parser.parse_args()
    rows = []
    for turn in range(asked.turns):
        rows.append({"turn": turn, "whose": "layersmith", **ours(asked.trials, asked.steps)})
        rows.append({"turn": turn, "whose": "zoology", **theirs(asked.python, asked.checkout, asked.trials)})
    for row in rows:
        print(row)
    rates = [[row["trials_an_hour"] for row in rows if row["whose"] == whose] for whose in ("layersmith", "zoology")]
    ratio = statistics.median(one / other for one, other in zip(*rates, strict=True))
    print(f"{ratio:.2f} times as many, goal at least 2")
    for row in rows:
        row |= {"ratio": ratio, "goal": 2.0, "theirs": f"github:HazyResearch/zoology@{commit(asked.checkout)}"}
    print(save_csv("recall_trials", rows, environment()))


def ours(trials: int, steps: int) -> dict[str, Any]:
    """A race of the model under two names, `trials` seeds each."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        result = layersmith.race(
            task="recall",
            task_settings=TASK,
            entrants={"once": dict(MODEL), "again": dict(MODEL)},
            budget={"params": float(cost_of(read_spec(MODEL), ends_of(build_task("recall", TASK))).params)},
            lr=[RATE],
            weight_decay=[0.1],
            steps=steps,
            batch=32,
            seeds=trials,
            out=Path(folder) / "race",
            workers=torch.get_num_threads(),
            progress=False,
        )
        took = time.perf_counter() - start
    scores = [run["score"] for row in result.leaderboard for run in row["runs"]]
    return found(took, scores, [steps] * len(scores))


def theirs(python: str, checkout: Path, trials: int) -> dict[str, Any]:
    script = Path(__file__).with_name("recall_trials_theirs.py")
    sizes = [str(size) for size in (TASK["vocabulary"], TASK["tokens"], TASK["pairs"], trials)] + [str(RATE)]
    done = subprocess.run([python, script, checkout, *sizes], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    said = json.loads(done.stdout.splitlines()[-1])
    if said["threads"] != torch.get_num_threads():
        raise SystemExit(f"zoology ran with {said['threads']} threads, layersmith with {torch.get_num_threads()}.")
    return found(said["seconds"], said["accuracies"], said["steps"])


def found(seconds: float, scores: list[float], steps: list[int]) -> dict[str, Any]:
    return {
        "trials": len(scores),
        "seconds": seconds,
        "trials_an_hour": 3600 * len(scores) / seconds,
        "least_accuracy": min(scores),
        "mean_accuracy": statistics.mean(scores),
        "mean_steps": statistics.mean(steps),
    }


if __name__ == "__main__":
    main()
