"""Does training run along a few directions, and do its steps commute outside of them? A random walk stands beside it.

    python benchmarks/trajectory_dimension.py [--seeds 3] [--steps 2000]

A small transformer learns modular addition by AdamW, and its parameters are kept at a hundred places on the way. Rows:
the training; a random walk of as many steps of equal length in as many dimensions, which wanders nowhere in particular;
and the training's own steps in a random order. Of each, by principal components of the places: how many hold 90 % of
the variance, the participation ratio (sum of variances)^2 / sum of squares, and the share of the first four.

`commutes_inside`: for pairs of batches at the end of training, a gradient step on A and then on B, less the same in the
other order: the share of its squared length in those four directions; `chance` is what four directions of all hold.

The claim that is looked at: training lives on a manifold of three or four dimensions, and steps that do not commute do
so outside of it ("Low-Dimensional Execution Manifolds in Transformer Learning Dynamics: Evidence from Modular
Arithmetic Tasks"). A random walk in high dimensions has a participation ratio of 5/2 and keeps 61, 15, 7, 4 % of its
variance in its first components, whatever it does: low dimension alone says nothing.

Writes results/trajectory_dimension.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from record import save_csv
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from layersmith.measuring.environment import environment
from layersmith.model.spec import read_spec
from layersmith.model.task_model import build
from layersmith.racing.optimizer import set_rate
from layersmith.racing.optimizers import build_rule
from layersmith.racing.task import Batch, Task
from layersmith.racing.tasks import build_task
from layersmith.racing.train import ends_of, rate

PLACES, FIRST, PAIRS = 100, 4, 20
SPEC = {"d_model": 64, "n_layers": 2, "n_heads": 2, "mixer": "softmax_attention", "ffn": "mlp"}
LR, DECAY, BATCH = 3e-3, 0.1, 128
#: Of the steps that are taken in both orders.
SMALL = 1e-2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--modulus", type=int, default=23)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in range(arguments.seeds):
        task = build_task("modular_addition", {"modulus": arguments.modulus, "train_share": 0.7})
        torch.manual_seed(seed)
        model = build(read_spec(SPEC), ends_of(task))
        places = trained(model, task, arguments.steps, seed)
        with torch.no_grad():
            batch = task.batch(torch.Generator().manual_seed(0), 512, "test")
            accuracy = task.score(model(batch.inputs), batch)
        for way, path in paths(places, torch.Generator().manual_seed(seed)):
            row: dict[str, Any] = {"way": way, "seed": seed, "steps": arguments.steps, **described(path)}
            if way == "training":
                row |= {"accuracy": accuracy, **commuting(model, task, directions(path), seed)}
            rows.append(row)
            print(row, flush=True)
    print(save_csv("trajectory_dimension", rows, environment()))


def trained(model: nn.Module, task: Task, steps: int, seed: int) -> Tensor:
    """Train, as a trial of a race does. The places on the way: (PLACES, parameters) float64."""
    rule, data = build_rule("adamw"), torch.Generator().manual_seed(seed)
    optimizers, places = rule.optimizers(model, LR, DECAY), []
    for step in range(steps):
        if step % (steps // PLACES) == 0:
            places.append(parameters_to_vector(model.parameters()).detach().double())
        batch = task.batch(data, BATCH)
        set_rate(optimizers, LR * rate(step, steps))

        def gradient(batch: Batch = batch) -> float:
            model.zero_grad(set_to_none=True)
            loss = task.loss(model(batch.inputs), batch)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            return loss.item()

        rule.step(optimizers, gradient)
    return torch.stack(places[:PLACES])


def paths(places: Tensor, generator: torch.Generator) -> Iterator[tuple[str, Tensor]]:
    """The training, and what it is held against."""
    steps = places.diff(dim=0)
    walk = torch.randn(steps.shape, generator=generator, dtype=torch.float64)
    walk = walk * (steps.norm(dim=1).mean() / walk.norm(dim=1, keepdim=True))
    mixed = steps[torch.randperm(len(steps), generator=generator)]
    for way, taken in (("training", steps), ("random walk", walk), ("steps in random order", mixed)):
        yield way, torch.cat([torch.zeros_like(taken[:1]), taken.cumsum(0)])


def described(path: Tensor) -> dict[str, float]:
    """What the variances of the principal components of places (n, parameters) say."""
    variances = torch.linalg.svdvals(path - path.mean(0)).square()
    shares = variances / variances.sum()
    return {
        "components": int((shares.cumsum(0) < 0.9).sum()) + 1,
        "participation": float(1 / shares.square().sum()),
        "first": float(shares[0]),
        "first_four": float(shares[:FIRST].sum()),
    }


def directions(path: Tensor) -> Tensor:
    """The first principal directions, (FIRST, parameters), of length 1."""
    return torch.linalg.svd(path - path.mean(0), full_matrices=False)[2][:FIRST]


def commuting(model: nn.Module, task: Task, inside: Tensor, seed: int) -> dict[str, float]:
    """Where the difference of two steps in both orders lies: the mean share of its square that is inside."""
    model.double()  # what is left of two steps is small
    start, generator = parameters_to_vector(model.parameters()).detach(), torch.Generator().manual_seed(100 + seed)
    found = []
    for _ in range(PAIRS):
        one, other = task.batch(generator, BATCH), task.batch(generator, BATCH)
        apart = stepped(model, task, start, [one, other]) - stepped(model, task, start, [other, one])
        found.append(float((inside @ apart).square().sum() / apart.square().sum()))
    return {"commutes_inside": sum(found) / PAIRS, "chance": FIRST / len(start)}


def stepped(model: nn.Module, task: Task, start: Tensor, batches: list[Batch]) -> Tensor:
    """Where a gradient step on each batch leads from `start`, float64."""
    vector_to_parameters(start.clone(), model.parameters())  # parameters become views of what they are given
    for batch in batches:
        model.zero_grad(set_to_none=True)
        task.loss(model(batch.inputs), batch).backward()
        with torch.no_grad():
            for p in model.parameters():
                if p.grad is not None:
                    p.sub_(SMALL * p.grad)
    return parameters_to_vector(model.parameters()).detach().double()


if __name__ == "__main__":
    main()
