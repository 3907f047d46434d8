"""How many trials of associative recall does `race` finish in an hour, beside zoology, at equal final accuracy?

    git clone https://github.com/HazyResearch/zoology
    python3 -m venv theirs && theirs/bin/pip install --constraint constraints.txt torch numpy tqdm pydantic
    theirs/bin/pip install --constraint constraints.txt einops pandas
    python benchmarks/zoology_trials.py zoology --python theirs/bin/python [--rounds 3] [--steps N] [--dropout 0.1]

A trial is one training from scratch until associative recall is solved. Both sides train the two learning rates of
RATES, which stand in zoology's own `basic_sweep.py`, and each is timed as the command that a user types, start
included. In every round the ways take turns:

    race      `layersmith race`, two workers, each on one thread; every trial makes --steps steps
    launcher  what zoology's launcher does: one process on two threads, one trial after the other, each ended by their
              loop after the first epoch whose accuracy on held-out examples is above GOAL, or after --epochs
    halved    the same in two processes on one thread each, half of the trials in each

The ratio is that to the better of their two ways in the same round. It counts only where `least_accuracy` of `race` is
GOAL too: --steps is the length of schedule that gets there, found beforehand, while their loop finds its end by itself.

Equal on both sides: the set-up of zoology's `basic.py` (256 tokens, 4 pairs, 64 positions, 2 layers of width 128, one
head, a GELU feed-forward of width 512, LayerNorm, batches of 32, weight decay 0.1, AdamW) and the law of the examples.
That is their generator with `random_non_queries=False`, an option of theirs which some of their own sweeps set: `race`
leaves blank what is not asked, where `basic.py` puts random tokens. Layout, halves of the vocabulary, distinct keys,
gaps (power 0.01) and the places of the loss are the same. Judged are 1,000 examples there, 1,024 here.

Each side has the rest from itself. Theirs: 10,000 stored examples again and again, in one order; learned positions;
tied ends; dropout 0.1 (--dropout); small initial weights; decay of every weight; a cosine over --epochs that changes
once an epoch; a test at the end of each. Ours: fresh examples at every step; RoPE; a head of its own (so 6 % more
parameters); decay of matrices alone; warm-up, half a cosine over --steps and clipped gradients; ten scores of 256
examples. Their examples are drawn before the clock runs, and kept in their cache. What stands in for what their code
wants of a GPU and of other libraries: zoology_theirs.py.

The last row asks whether fresh examples are easier: our training, with our loop and model, on their stored examples in
their order, judged on theirs. It is not timed against anything, and takes one thread.

Writes results/zoology_trials.csv: for each way the median over rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from official.checkout import commit
from record import save_csv

from layersmith.model.spec import read_spec
from layersmith.model.task_model import cost_of
from layersmith.racing import train
from layersmith.racing.task import Batch
from layersmith.racing.tasks import build_task

#: Two neighbours of the ten learning rates of zoology's `basic_sweep.py`.
RATES = (1.29e-3, 2.15e-3)
#: The accuracy at which their loop stops by default.
GOAL = 0.99
CORES = 2
WIDTH, LAYERS, BATCH, DECAY = 128, 2, 32, 0.1
TASK = {"vocabulary": 256, "pairs": 4, "tokens": 64}
EXAMPLES, HELD_OUT = 10_000, 1_000
MODEL = {
    "mixer": {"name": "softmax_attention", "bias": True, "out_bias": True},
    "ffn": {"name": "mlp", "d_hidden": 4 * WIDTH},
    "norm": "layer_norm",
}


@dataclass(frozen=True)
class Turn:
    """What one command did: its seconds from start to end; of each of its trials the accuracy and the steps."""

    seconds: float
    accuracies: list[float]
    steps: list[int]

    @property
    def an_hour(self) -> float:
        return 3600 * len(self.steps) / self.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="of HazyResearch/zoology")
    parser.add_argument("--python", default=sys.executable, help="of an environment with einops and pandas")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500, help="of a trial of race")
    parser.add_argument("--epochs", type=int, default=32, help="of a trial of zoology, at most")
    parser.add_argument("--dropout", type=float, default=0.1, help="of zoology's model, in attention and embeddings")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    told = {"zoology": commit(arguments.checkout), "dropout_theirs": arguments.dropout}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        settings = {
            **TASK,
            "examples": EXAMPLES,
            "held_out": HELD_OUT,
            "d_model": WIDTH,
            "layers": LAYERS,
            "batch": BATCH,
            "weight_decay": DECAY,
            "dropout": arguments.dropout,
            "epochs": arguments.epochs,
            "threshold": GOAL,
            "cache": str(scratch / "zoology"),
        }
        run = partial(theirs, [arguments.python, Path(__file__).with_name("zoology_theirs.py"), arguments.checkout])
        run(scratch, {**settings, "epochs": 1}, seed=0, processes=1)  # draws and keeps their examples
        turns: dict[str, list[Turn]] = {"race": [], "launcher": [], "halved": []}
        for seed in range(arguments.rounds):
            turns["race"].append(race(scratch, arguments.steps, seed))
            turns["launcher"].append(run(scratch, settings, seed, processes=1))
            turns["halved"].append(run(scratch, settings, seed, processes=CORES))
            for way, found in turns.items():
                print(f"round {seed + 1}, {way}: {found[-1].an_hour:.1f} trials an hour, {found[-1]}", flush=True)
        rows = [row(way, turns) for way in turns]
        rows.append(on_their_examples(scratch / "zoology", arguments.steps))
    for each in rows:
        print(each)
    print(save_csv("zoology_trials", [each | told for each in rows]))


def row(way: str, turns: dict[str, list[Turn]]) -> dict[str, Any]:
    mine, median = turns[way], statistics.median
    better = [max(pair, key=lambda turn: turn.an_hour) for pair in zip(turns["launcher"], turns["halved"], strict=True)]
    ratios = sorted(turn.an_hour / best.an_hour for turn, best in zip(mine, better, strict=True))
    accuracies = [accuracy for turn in mine for accuracy in turn.accuracies]
    return {
        "way": way,
        "rates": " ".join(map(str, RATES)),
        "rounds": len(mine),
        "trials": len(accuracies),
        "solved": sum(accuracy >= GOAL for accuracy in accuracies),
        "least_accuracy": min(accuracies),
        "mean_accuracy": statistics.mean(accuracies),
        "steps": median(statistics.mean(turn.steps) for turn in mine),
        "seconds_a_trial": median(turn.seconds / len(turn.steps) for turn in mine),
        "trials_an_hour": median(turn.an_hour for turn in mine),
        "steps_a_second": median(sum(turn.steps) / turn.seconds for turn in mine),
        "times_zoology": median(ratios),
        "least_times": ratios[0],
        "most_times": ratios[-1],
        "goal": 2 if way == "race" else "",
    }


def race(scratch: Path, steps: int, seed: int) -> Turn:
    """`layersmith race` of entrants that differ in the learning rate alone."""
    spec = read_spec({**MODEL, "d_model": WIDTH, "n_layers": LAYERS, "n_heads": 1})
    params = cost_of(spec, train.ends_of(build_task("recall", TASK))).params
    written = {
        "task": "recall",
        "task_settings": TASK,
        "entrants": {f"rate {rate:g}": {**MODEL, "lr": [rate]} for rate in RATES},
        "budget": {"params": params},  # which gives every entrant that width
        "layers": LAYERS,
        "heads": 1,
        "steps": steps,
        "batch": BATCH,
        "weight_decay": [DECAY],
        "seeds": 1,
        "seed": seed,
        "workers": CORES,
    }
    file, out = scratch / f"race-{seed}.yaml", scratch / f"race-{seed}"
    file.write_text(json.dumps(written), encoding="utf-8")
    start = time.perf_counter()
    said_by([[sys.executable, "-m", "layersmith", "race", file, "--out", out, "--quiet"]], 1, scratch)
    seconds = time.perf_counter() - start
    entrants = json.loads((out / "result.json").read_text(encoding="utf-8"))["entrants"]
    if any(entrant["spec"]["d_model"] != WIDTH for entrant in entrants):
        raise SystemExit(f"The models of race are not all of width {WIDTH}, as those of zoology are.")
    scores = [run["score"] or 0.0 for entrant in entrants for run in entrant["runs"]]  # none where it diverged
    return Turn(seconds, scores, [steps] * len(scores))


def theirs(command: list[Any], scratch: Path, settings: dict[str, Any], seed: int, processes: int) -> Turn:
    """zoology's trainings of all rates, shared out to processes."""
    trials, threads = [(rate, seed) for rate in RATES], CORES // processes
    shares = [{**settings, "threads": threads, "trials": trials[first::processes]} for first in range(processes)]
    start = time.perf_counter()
    answers = said_by([[*command, json.dumps(share)] for share in shares], threads, scratch)
    seconds = time.perf_counter() - start
    found = [trial for answer in answers for trial in json.loads(answer.splitlines()[-1])]
    return Turn(seconds, [trial["accuracy"] for trial in found], [trial["steps"] for trial in found])


def said_by(commands: list[list[Any]], threads: int, scratch: Path) -> list[str]:
    """What these commands print, run at the same time; SystemExit with the complaint of one that fails."""
    places = {**os.environ, "OMP_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": ""}
    log = scratch / "complaints"
    with log.open("w", encoding="utf-8") as errors:  # not a pipe, which bars of progress would fill up
        children = [
            subprocess.Popen(command, env=places, stdout=subprocess.PIPE, stderr=errors, text=True)
            for command in commands
        ]
        said = [child.communicate()[0] for child in children]
    if any(child.returncode for child in children):
        raise SystemExit(log.read_text(encoding="utf-8", errors="replace")[-4000:])
    return said


def on_their_examples(cache: Path, steps: int) -> dict[str, Any]:
    """Our training on the examples that zoology keeps, in its order, judged on those it holds out."""
    held_out, stored = sorted((torch.load(file) for file in cache.glob("*.pt")), key=lambda kept: len(kept["inputs"]))
    trial = train.Trial(
        entrant="on their examples",
        task="recall",
        task_settings=TASK,
        spec={**MODEL, "d_model": WIDTH, "n_layers": LAYERS, "n_heads": 1},
        optimizer={"name": "adamw"},
        lr=RATES[0],
        weight_decay=DECAY,
        seed=0,
        steps=steps,
        batch=BATCH,
    )
    running = train._Running(trial)
    inputs, labels = stored["inputs"].split(BATCH), stored["labels"].split(BATCH)

    def following(*_: Any) -> Batch:
        place = running.step % len(inputs)
        return Batch(inputs[place], labels[place])

    running.task.batch = following  # type: ignore[method-assign]
    while running.step < steps:
        running.train_on_one_batch()
        running.step += 1
    running.model.eval()
    with torch.no_grad():
        judged = Batch(held_out["inputs"], held_out["labels"])
        accuracy = running.task.score(running.model(judged.inputs), judged)
    found = {"rates": str(RATES[0]), "trials": 1, "solved": int(accuracy >= GOAL), "mean_accuracy": accuracy}
    return {"way": "race, on their examples", **found, "least_accuracy": accuracy, "steps": steps}


if __name__ == "__main__":
    main()
