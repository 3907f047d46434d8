"""One training by several processes: a race under torchrun, with DDP, for trials too large for one process.

    torchrun --nproc-per-node 2 -m layersmith race FILE.yaml

The first process runs the race. Before each training it tells the others what is trained, and all of them train it,
each on its share of every batch; gradients are averaged, so that every process keeps the same weights. The others only
read the workspace, which all processes must see. What a model draws at random, and what it computes over a batch as a
whole (batch statistics, losses that balance experts), is that of a share; all else is as in one process, to rounding.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from layersmith.racing.task import IGNORED, Batch
from layersmith.runs.workspace import Workspace

if TYPE_CHECKING:
    from layersmith.racing.train import Trial


def size() -> int:
    """Processes that share a training: what torchrun says; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this one is, from 0."""
    return int(os.environ.get("RANK", "0")) if size() > 1 else 0


@contextmanager
def leading() -> Iterator[None]:
    """For the first process: the others follow what it trains in here, and end when it ends. Without others nothing."""
    if size() == 1:
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        _say(None)
        dist.destroy_process_group()


def follow(workspace: Workspace, run: Callable[[Trial, Workspace, int], Any]) -> None:
    """For the others: train whatever the first trains, until it ends. `run` is `train.run_trial`."""
    from layersmith.racing.train import Trial

    dist.init_process_group("gloo")
    try:
        while (told := _say(None)) is not None:
            run(Trial(**told["trial"]), workspace, told["until"])
    finally:
        dist.destroy_process_group()


def begin(trial: Trial, until: int) -> None:
    """Tell the others what is trained now."""
    if size() > 1 and rank() == 0:
        _say({"trial": asdict(trial), "until": until})


def wrapped(model: nn.Module) -> nn.Module:
    """The model as its forward is called in training: with DDP where there are several processes."""
    if size() == 1:
        return model
    # Experts that no token went to have no gradient.
    return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)


def share(batch: Batch) -> Batch:
    """This process's examples of a batch that all of them drew."""
    return Batch(batch.inputs[rank() :: size()], batch.targets[rank() :: size()])


def weight(mine: Batch, whole: Batch) -> float:
    """By what the mean loss of this share counts so that the average over processes is the mean over the batch."""
    return size() * _asked(mine.targets) / max(1, _asked(whole.targets))


def mean(loss: Tensor) -> Tensor:
    """The average over the processes."""
    if size() == 1:
        return loss
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total / size()


def _asked(targets: Tensor) -> int:
    """How many targets are judged."""
    asked = ~targets.isnan() if targets.is_floating_point() else targets != IGNORED
    return int(asked.sum())


def _say(message: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the first process says, in all of them: JSON, after its length."""
    text = torch.tensor(list(json.dumps(message).encode()), dtype=torch.uint8)
    length = torch.tensor([len(text)])
    dist.broadcast(length, 0)
    if rank() > 0:
        text = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(text, 0)
    return json.loads(bytes(text.tolist()))
