"""Every task at a size that tests afford, and how its "random" yardstick guesses."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layersmith.racing.task import Batch, Task
from layersmith.racing.tasks import TASKS, build_task

#: Settings; where a task is not named, its defaults.
SETTINGS: dict[str, dict[str, Any]] = {
    "addition": {"longest": 2},
    "bandit": {"n_arms": 3, "n_steps": 6},
    "bursty": {"n_classes": 24, "n_dims": 6},
    "burgers": {"tokens": 32, "viscosity": 0.1, "n_train": 24},
    "cavity": {"side": 5, "n_train": 4},
    "darcy": {"side": 5, "n_train": 24},
    "dynamics": {"system": "lorenz96", "tokens": 8, "ahead": 1, "n_train": 16},
    "facts": {"n_subjects": 16, "n_relations": 3},
    "generation": {"data": "drawn"},
    "impedance": {"side": 6, "n_patterns": 1, "n_train": 24},
    "in_context_fourier": {"n_frequencies": 3, "n_points": 8},
    "in_context_modular": {"modulus": 5, "n_trained": 12},
    "linear_algebra": {"size": 2, "encoding": "p10"},
    "multiplication": {"longest": 2},
    "modular_addition": {"modulus": 11},
    "sorting": {"longest": 3, "n_values": 5},
}
#: The ids that a guess is drawn from, for tasks that write tokens but not all of them.
ANSWERS = {
    "addition": 10,
    "bursty": 2,
    "facts": 16,
    "first": 2,
    "induction": 15,
    "modular_addition": 11,
    "multiplication": 10,
    "parity": 2,
    "selective_copying": 14,
    "sorting": 5,
}
#: What is scored by a density, which has no best value.
DENSITIES = ("in_context_uncertainty",)
NAMES = sorted(set(TASKS) - {"recall"})  # recall has tests of its own


def small(name: str, folder: Path) -> Task:
    """The task; those that read files read some that are written into the folder."""
    settings = dict(SETTINGS.get(name, {}))
    if name == "digits":
        settings["data"] = str(write_idx(folder))
    if name in ("language_modelling", "replaced"):
        settings |= {"data": str(write_texts(folder)), "tokens": 16}
    return build_task(name, settings)


def write_texts(folder: Path) -> Path:
    """Forty small files, each of words of its own."""
    place = folder / "texts"
    place.mkdir()
    for n in range(40):
        words = [f"word{n}" for _ in range(20 + n)] + ["the"] * 9
        (place / f"{n}.txt").write_text(" ".join(words))
    return place


def write_idx(folder: Path, height: int = 4, width: int = 6) -> Path:
    """Pictures whose brightness tells their label: 60 to train on, plain, and 20 to test on, gzipped."""
    place = folder / "idx"
    place.mkdir()
    random = np.random.default_rng(0)
    for name, count in (("train", 60), ("t10k", 20)):
        labels = np.arange(count) % 3
        images = 80 * labels[:, None, None] + random.integers(0, 20, (count, height, width))
        _write(place / f"{name}-images-idx3-ubyte", images, name == "t10k")
        _write(place / f"{name}-labels-idx1-ubyte", labels, name == "t10k")
    return place


def _write(path: Path, values: np.ndarray, packed: bool) -> None:
    head = bytes([0, 0, 8, values.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in values.shape)
    content = head + values.astype(np.uint8).tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def draw(task: Task, size: int, split: Any = "train", seed: int = 0) -> Batch:
    return task.batch(torch.Generator().manual_seed(seed), size, split)


def guesses(task: Task, batch: Batch) -> Tensor:
    """What "random" is: nothing but 0 for numbers; for entropies every token alike; else an answer drawn from all."""
    if task.writes == "real":
        return torch.zeros(*batch.targets.shape)
    shape = (*batch.targets.shape, task.n_outputs)
    if not task.higher_is_better:
        return torch.zeros(shape)
    logits = torch.rand(shape, generator=torch.Generator().manual_seed(9))
    logits[..., ANSWERS.get(task.name, task.n_outputs) :] = -1
    return logits


def right(task: Task, batch: Batch) -> Tensor:
    """Outputs that say what is asked, without a doubt."""
    if task.writes == "real":
        return batch.targets.nan_to_num(7.0)
    return 50.0 * torch.nn.functional.one_hot(batch.targets.clamp_min(0), task.n_outputs).float()
