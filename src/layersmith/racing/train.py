"""One trial: an entrant, trained from scratch with one seed and one setting.

All trials of a seed see the same examples in the same order. Whatever optimizer trains, there is one schedule for all:
warm-up over the first tenth of the steps, then half a cosine to zero; gradients are clipped to a norm of 1. What trains
is kept in one file of the workspace, everything that decides the next step in it, so that a trial that is killed, or
stopped early and taken up again, ends with the same bits. Every trial runs on one thread, wherever it runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from layersmith.contract import aux_losses
from layersmith.model.spec import read_spec
from layersmith.model.task_model import Ends, build
from layersmith.racing import together
from layersmith.racing.optimizer import set_rate
from layersmith.racing.optimizers import build_rule
from layersmith.racing.task import Batch, Split, Task
from layersmith.racing.tasks import build_task
from layersmith.runs.identity import digest_of
from layersmith.runs.workspace import Workspace

WARM_UP = 0.1
CLIP = 1.0
#: Points of a curve, and examples of each of them and of the last score.
POINTS, VALID_EXAMPLES, TEST_EXAMPLES = 10, 256, 1024
#: What a point of a curve holds.
POINT = ("step", "loss", "score", "seconds")
TIMED_STEPS = 10
#: Seconds between two checkpoints.
CHECKPOINT_EVERY = 20.0


@dataclass(frozen=True)
class Trial:
    """All that decides the outcome of a training, and for whom it is: two entrants never share one.

    optimizer   its name and settings
    steps   the length of the schedule, wherever the trial is stopped
    """

    entrant: str
    task: str
    task_settings: dict[str, Any]
    spec: dict[str, Any]
    optimizer: dict[str, Any]
    lr: float
    weight_decay: float
    seed: int
    steps: int
    batch: int

    @property
    def name(self) -> str:
        """Its files in the workspace."""
        return f"trials/{digest_of(asdict(self))}"


@dataclass(frozen=True)
class Outcome:
    """What came of a trial as far as it went.

    step      steps done
    loss      on examples that settings are chosen by; None when it is not finite
    test      score on examples that nothing is chosen by; None before the last step
    test_loss the loss on them
    longer    the score on examples longer than any that was trained on, where the task has such
    diverged  the step at which loss or gradient was no longer finite; None when they stayed finite
    seconds   of training, without scoring
    curve     [{"step", "loss", "score", "seconds"}]: mean training loss since the last point, score on the examples
              that settings are chosen by
    """

    step: int
    loss: float | None
    test: float | None
    test_loss: float | None
    longer: float | None
    diverged: int | None
    seconds: float
    curve: list[dict[str, Any]]


def ends_of(task: Task) -> Ends:
    return Ends(task.reads, task.writes, task.n_inputs, task.n_outputs, task.tokens, task.causal, once=task.once)


def rate(step: int, steps: int) -> float:
    """The share of the peak learning rate at this step, counted from 0."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))


def outcome_name(trial: Trial, until: int) -> str:
    """Where the workspace has what came of the trial up to that step."""
    return f"{trial.name}-{until}"


def run_trial(trial: Trial, workspace: Workspace, until: int) -> Outcome:
    """Train up to step `until`, from where the workspace has the trial, and keep what came of it there."""
    kept = workspace.load_json(outcome_name(trial, until))
    if kept is not None:
        return Outcome(**kept)
    together.begin(trial, until)
    with _one_thread():
        running = _Running(trial)
        running.load(workspace)
        saved = time.monotonic()
        while running.step < until and running.diverged is None:
            running.advance()
            if time.monotonic() - saved > CHECKPOINT_EVERY and together.rank() == 0:
                running.save(workspace)
                saved = time.monotonic()
        outcome = running.outcome()
        if together.rank() > 0:
            return outcome  # what is kept, the first process keeps
        if running.step < trial.steps and running.diverged is None:
            running.save(workspace)
    workspace.save_json(outcome_name(trial, until), asdict(outcome))
    if running.step == trial.steps or running.diverged is not None:
        workspace.remove(trial.name)  # nothing goes on from here
    return outcome


def seconds_per_step(trial: Trial) -> float:
    """Seconds that a step of this trial takes on one thread of this machine, after two that warm up."""
    with _one_thread():
        running = _Running(trial)
        for _ in range(2):
            running.train_on_one_batch()
        start = time.perf_counter()
        for _ in range(TIMED_STEPS):
            running.train_on_one_batch()
        return (time.perf_counter() - start) / TIMED_STEPS


class _Running:
    """A trial while it trains: everything that changes from step to step, and how it is kept."""

    def __init__(self, trial: Trial):
        self.trial = trial
        self.task = build_task(trial.task, trial.task_settings)
        torch.manual_seed(trial.seed)  # initial weights, and what operators draw while they train
        self.model = build(read_spec(trial.spec), ends_of(self.task), trust_remote_code=True)  # as named by the user
        self.called = together.wrapped(self.model)
        self.parameters = list(self.model.parameters())
        self.rule = build_rule(trial.optimizer)
        self.optimizers = self.rule.optimizers(self.model, trial.lr, trial.weight_decay)
        self.data = _stream(trial.seed, "train")
        self.step, self.seconds = 0, 0.0
        self.diverged: int | None = None
        self.losses: list[float] = []
        self.curve: list[dict[str, Any]] = []

    def advance(self) -> None:
        """One step, and at some steps a point of the curve."""
        start = time.perf_counter()
        loss = self.train_on_one_batch()
        self.seconds += time.perf_counter() - start
        self.step += 1
        if not math.isfinite(loss):
            self.diverged = self.step
        self.losses.append(loss)
        every = max(1, self.trial.steps // POINTS)
        if self.step % every == 0 or self.step == self.trial.steps:
            mean = _finite(sum(self.losses) / len(self.losses))
            score, _ = self.score("valid", VALID_EXAMPLES)
            self.curve.append({"step": self.step, "loss": mean, "score": score, "seconds": self.seconds})
            self.losses = []

    def train_on_one_batch(self) -> float:
        """The loss, NaN where it or a gradient is not finite; weights are then left as they were."""
        set_rate(self.optimizers, self.trial.lr * rate(self.step, self.trial.steps))
        batch = self.task.batch(self.data, self.trial.batch)
        return self.rule.step(self.optimizers, lambda: self.gradient(batch))

    def gradient(self, batch: Batch) -> float:
        """Compute the gradient where the weights are, clipped; the loss, NaN where one of both is not finite."""
        self.model.train()
        mine = together.share(batch)
        loss = self.task.loss(self.called(mine.inputs), mine)
        if together.size() > 1:
            loss = loss * together.weight(mine, batch)
        self.model.zero_grad(set_to_none=True)
        sum(aux_losses(self.model).values(), loss).backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, CLIP)
        return together.mean(loss).item() if torch.isfinite(norm) else math.nan

    @torch.no_grad()
    def score(self, split: Split, examples: int) -> tuple[float | None, float | None]:
        """Score and loss on examples that are the same for all entrants and seeds; None where not finite."""
        self.model.eval()
        data, size = _stream(0, split), 128
        scores, losses = [], []
        with torch.random.fork_rng(devices=[]):
            for _ in range(examples // size):
                batch = self.task.batch(data, size, split)
                outputs = self.model(batch.inputs)
                scores.append(self.task.score(outputs, batch))
                losses.append(float(self.task.loss(outputs, batch)))
        return _finite(sum(scores) / len(scores)), _finite(sum(losses) / len(losses))

    def outcome(self) -> Outcome:
        loss = test = test_loss = longer = None
        if self.diverged is None:
            _, loss = self.score("valid", VALID_EXAMPLES)
            if self.step == self.trial.steps:
                test, test_loss = self.score("test", TEST_EXAMPLES)
                made = self.task.made(self.model)
                test = test if made is None else _finite(made)
                longer, _ = self.score("longer", TEST_EXAMPLES) if "longer" in self.task.splits else (None, None)
        return Outcome(
            step=self.step,
            loss=loss,
            test=test,
            test_loss=test_loss,
            longer=longer,
            diverged=self.diverged,
            seconds=self.seconds,
            curve=self.curve,
        )

    # -- what is kept -------------------------------------------------------------------------------------------

    def save(self, workspace: Workspace) -> None:
        tensors: dict[str, Tensor] = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{index}.{name}": value for name, value in state.items()}
        tensors["random"], tensors["data"] = torch.get_rng_state(), self.data.get_state()
        tensors["step"] = torch.tensor([self.step])
        tensors["seconds"] = torch.tensor([self.seconds], dtype=torch.float64)
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        points = [[_number(point[name]) for name in POINT] for point in self.curve]
        tensors["curve"] = torch.tensor(points, dtype=torch.float64).reshape(-1, 4)
        workspace.save_tensors(self.trial.name, tensors)

    def load(self, workspace: Workspace) -> None:
        tensors = workspace.load_tensors(self.trial.name)
        if tensors is None:
            return
        self.model.load_state_dict(_under("model.", tensors))
        for number, optimizer in enumerate(self.optimizers):
            state: dict[int, dict[str, Tensor]] = {}
            for name, value in _under(f"optimizer.{number}.", tensors).items():
                index, _, entry = name.partition(".")
                state.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
        torch.set_rng_state(tensors["random"])
        self.data.set_state(tensors["data"])
        self.step, self.seconds = int(tensors["step"]), float(tensors["seconds"])
        self.losses = tensors["losses"].tolist()
        for step, *others in tensors["curve"].tolist():
            self.curve.append({"step": int(step), **dict(zip(POINT[1:], map(_finite, others), strict=True))})


def _stream(seed: int, split: Split) -> torch.Generator:
    """A generator of its own for each seed and split. Torch's on the CPU heeds the last 32 bits of a seed only."""
    return torch.Generator().manual_seed(int(digest_of(split, seed), 16) % 2**32)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums are in one order on one thread; the caller's generator is as it was afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)
